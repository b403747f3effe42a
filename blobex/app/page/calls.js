// Requests to the server. Every failure is an Error with one sentence.

const sentence = async response => {
  try { return (await response.json()).error || `the server answered ${response.status}`; }
  catch { return `the server answered ${response.status}`; }
};

async function call(path, options) {
  let response;
  try { response = await fetch(path, options); }
  catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is blobex app still running?");
  }
  if (!response.ok) throw new Error(await sentence(response));
  return response;
}

const post = (path, content, signal) => call(path,
  { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content), signal });

/** What a stream of events ends in; `told` gets the events before. */
async function followed(response, told) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the server closed the connection");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.error) throw new Error(event.error);
      if (event.result) return event.result;
      told(event);
    }
  }
}

export const model = async decision =>
  (await call(decision ? `/api/model?decision=${encodeURIComponent(decision)}` : "/api/model")).json();
export const sample = async (seed, truncation, decision) =>
  (await post("/api/sample", { seed, truncation, decision })).json();
export const draw = async scene => (await post("/api/draw", scene)).json();
export const photo = async (file, decision, told, signal) => followed(await call(
  `/api/photo?${new URLSearchParams({ name: file.name, decision })}`, { method: "POST", body: file, signal }), told);
export const explain = async (scene, question, told, signal) =>
  followed(await post("/api/explain", { scene, question }, signal), told);
export const feedback = async answer => (await post("/api/feedback", answer)).json();
export const png = base64 => `data:image/png;base64,${base64}`;
