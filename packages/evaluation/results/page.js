"use strict";
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const select = one("#metric");
  const cards = new Map(all(".card").map((card) => [card.dataset.card, card]));

  // the images and plots of one metric; all others wait in the store
  function choose() {
    const option = select.selectedOptions[0];
    one("#store").append(...cards.values());
    for (const group of ["best", "worst"]) {
      const chosen = option.dataset[group].split(" ").filter(Boolean).map((number) => cards.get(number));
      one(`#${group}`).append(...chosen);
      one(`#${group}-title`).textContent = option.dataset[`${group}Title`];
      one(`#${group}-title`).hidden = !chosen.length;
    }
    all("[data-metric]").forEach((x) => { x.hidden = x.dataset.metric !== select.value; });
  }

  // one region alone: its box bright, the rest of the picture dark
  function show(card, line) {
    const spot = one(".spot", card);
    all(".region.active", card).forEach((x) => x.classList.remove("active"));
    if (!spot) return;
    spot.hidden = !line;
    one(".boxes", card).classList.toggle("hushed", Boolean(line));
    if (!line) return;
    line.classList.add("active");
    const [left, top, width, height] = line.dataset.box.split(" ");
    Object.assign(spot.style, { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` });
    spot.style.setProperty("--c", line.style.getPropertyValue("--c"));
  }

  function toggleBoxes() {
    const root = document.documentElement;
    root.dataset.overlay = root.dataset.overlay === "on" ? "off" : "on";
    one("#toggle").setAttribute("aria-pressed", root.dataset.overlay === "on");
  }

  document.addEventListener("click", (event) => {
    const hit = (selector) => event.target.closest(selector);
    if (hit("[data-more]")) hit(".card").classList.add("open");
    else if (hit("#toggle")) toggleBoxes();
  });
  for (const [name, shown] of [["pointerover", true], ["focusin", true], ["pointerout", false], ["focusout", false]]) {
    document.addEventListener(name, (event) => {
      const line = event.target.closest(".region");
      if (line && (shown || !line.contains(event.relatedTarget))) show(line.closest(".card"), shown ? line : null);
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "o" || event.ctrlKey || event.metaKey || event.altKey || event.target === select) return;
    toggleBoxes();
  });
  if (select) {
    select.addEventListener("change", choose);
    choose(); // a browser that comes back to the page keeps what was selected
  }
})();
