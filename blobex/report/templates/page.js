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
}
