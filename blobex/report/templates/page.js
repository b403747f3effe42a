"use strict";
const form = document.getElementById("filters");
if (form) {
  const list = document.getElementById("cards"), status = document.getElementById("count");
  const open = document.getElementById("open"), cards = [...list.children];
  const texts = new Map(cards.map(card => [card,
    [...card.querySelectorAll(".searched")].map(part => part.textContent).join(" ").toLowerCase()]));
  const exact = ["setup", "variant", "attribute", "verdict"];
  const value = (card, name) => card.dataset[name] === undefined ? Infinity : Number(card.dataset[name]);

  const fits = (card, wanted) => {
    const changed = wanted.get("changed"), words = wanted.get("text").toLowerCase().split(/\s+/).filter(Boolean);
    return exact.every(name => !wanted.get(name) || card.dataset[name] === wanted.get(name))
      && (!changed || card.dataset.changed.split("|").includes(changed))
      && words.every(word => texts.get(card).includes(word));
  };
  const filter = () => {
    const wanted = new FormData(form);
    let count = 0;
    for (const card of cards) {
      card.hidden = !fits(card, wanted);
      count += !card.hidden;
    }
    status.textContent = count ? `${count} of ${cards.length} explanations` : "No explanation fits: clear a filter.";
  };
  const sort = () => {
    const name = form.elements.sort.value;
    cards.sort((one, other) => value(one, name) - value(other, name) || value(one, "order") - value(other, "order"));
    list.append(...cards);
  };
  form.addEventListener("input", event => { if (event.target.name === "sort") sort(); filter(); });
  form.addEventListener("reset", () => setTimeout(() => { sort(); filter(); }));
  form.addEventListener("submit", event => event.preventDefault());
  open.addEventListener("click", () => {
    const all = open.getAttribute("aria-pressed") !== "true";
    open.setAttribute("aria-pressed", all);
    open.textContent = all ? "close all" : "open all";
    for (const card of cards) if (!card.hidden) card.querySelector("details").open = all;
  });
  filter();

  // What a person says about explanations stays on the page until it is saved as a file for `blobex repair`.
  const said = new Map(), save = document.getElementById("save");
  for (const group of list.querySelectorAll(".answer")) {
    const { digest, image, output, decided } = group.dataset, buttons = [...group.querySelectorAll("button")];
    group.hidden = false;
    for (const button of buttons) button.addEventListener("click", () => {
      said.set(`${digest} ${output}`, { digest, image, output, decided: decided === "true", answer: button.value });
      for (const each of buttons) each.setAttribute("aria-pressed", each === button);
      save.hidden = false;
      save.textContent = `save ${said.size} answer${said.size > 1 ? "s" : ""}`;
    });
  }
  save.addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([JSON.stringify([...said.values()], null, 1)], { type: "application/json" }));
    Object.assign(document.createElement("a"), { href: url, download: "feedback.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  });
}
