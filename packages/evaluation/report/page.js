"use strict";
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const cards = all(".gallery .card");
  const search = one("#search"), lightbox = one("#lightbox"), help = one("#help");
  const chosen = { status: new Set(), label: new Set() };
  let opened = null;

  // what can be searched and filtered, gathered once
  const known = new Map(cards.map((card) => [card, {
    text: [card.dataset.key, ...all("[data-search]", card).map((x) => x.textContent)].join("\n").toLowerCase(),
    labels: new Set(all(".label", card).map((x) => x.textContent)),
  }]));
  const visible = () => cards.filter((card) => !card.hidden);

  function filter() {
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const card of cards) {
      const { text, labels } = known.get(card);
      card.hidden = !(terms.every((term) => text.includes(term))
        && (!chosen.status.size || chosen.status.has(card.dataset.status))
        && (!chosen.label.size || [...chosen.label].some((label) => labels.has(label))));
    }
    const count = visible().length;
    one("#found").textContent = count === cards.length ? "" : `${count} of ${cards.length} shown`;
    one("#none").hidden = count > 0;
  }

  function toggleChip(chip) {
    const group = "status" in chip.dataset ? "status" : "label";
    const on = chip.getAttribute("aria-pressed") !== "true";
    chip.setAttribute("aria-pressed", on);
    chosen[group][on ? "add" : "delete"](chip.dataset[group]);
    filter();
  }

  function reset() {
    search.value = "";
    chosen.status.clear();
    chosen.label.clear();
    all(".chip").forEach((chip) => chip.setAttribute("aria-pressed", "false"));
    filter();
  }

  function toggleOverlay() {
    const root = document.documentElement;
    root.dataset.overlay = root.dataset.overlay === "on" ? "off" : "on";
    one("#toggle").setAttribute("aria-pressed", root.dataset.overlay === "on");
  }

  // one region alone: its box bright, the rest of the picture dark
  function show(card, region) {
    const spot = one(".spot", card);
    all(".region.active", card).forEach((line) => line.classList.remove("active"));
    if (!spot) return;
    spot.hidden = !region;
    if (!region) return;
    region.classList.add("active");
    const [left, top, width, height] = region.dataset.box.split(" ");
    Object.assign(spot.style, { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` });
    spot.style.setProperty("--c", region.style.getPropertyValue("--c"));
  }

  function regionAt(card, frame, event) {
    const area = frame.getBoundingClientRect();
    const x = (100 * (event.clientX - area.left)) / area.width, y = (100 * (event.clientY - area.top)) / area.height;
    const size = (line) => { const [, , w, h] = line.dataset.box.split(" ").map(Number); return w * h; };
    return all(".region", card).filter((line) => {
      const [left, top, width, height] = line.dataset.box.split(" ").map(Number);
      return left <= x && x <= left + width && top <= y && y <= top + height;
    }).sort((a, b) => size(a) - size(b))[0];
  }

  function focusCard(card) {
    if (!card) return;
    one("[data-open]", card).focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  function step(by) {
    const shown = visible();
    const here = opened ?? document.activeElement.closest?.(".gallery .card");
    const at = shown.indexOf(here);
    const next = shown[at < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, at + by))];
    if (opened) open(next);
    else focusCard(next);
  }

  function columns() {
    const shown = visible();
    const top = shown[0]?.offsetTop;
    return Math.max(1, shown.filter((card) => card.offsetTop === top).length);
  }

  function open(card) {
    if (!card) return;
    opened = card;
    const copy = card.cloneNode(true);
    const frame = one(".stage .frame", copy);
    if (frame) frame.style.setProperty("--ratio", frame.style.aspectRatio.split("/")[0]);
    all("img", copy).forEach((image) => { image.loading = "eager"; });
    all("[data-open]", copy).forEach((button) => button.removeAttribute("data-open"));
    one("#enlarged").replaceChildren(copy);
    show(copy, null);
    const shown = visible();
    one("#place").textContent = `${shown.indexOf(card) + 1} of ${shown.length} · ${card.dataset.key}`;
    if (!lightbox.open) { lightbox.showModal(); lightbox.focus(); } // not its first button
  }

  lightbox.addEventListener("close", () => {
    const last = opened;
    opened = null;
    one("#enlarged").replaceChildren();
    if (last) focusCard(last);
  });

  document.addEventListener("click", (event) => {
    const hit = (selector) => event.target.closest(selector);
    if (hit("[data-open]")) open(hit(".card"));
    else if (hit(".chip")) toggleChip(hit(".chip"));
    else if (hit("[data-more]")) hit(".card").classList.add("open");
    else if (hit("#toggle")) toggleOverlay();
    else if (hit("#help-button")) help.showModal();
    else if (hit("#reset")) reset();
    else if (hit("[data-step]")) step(Number(hit("[data-step]").dataset.step));
    else if (hit("[data-close]") || event.target === lightbox || event.target === help) hit("dialog").close();
  });

  for (const name of ["pointerover", "focusin"]) {
    document.addEventListener(name, (event) => {
      const region = event.target.closest(".region");
      if (region) show(region.closest(".card"), region);
    });
  }
  for (const name of ["pointerout", "focusout"]) {
    document.addEventListener(name, (event) => {
      const from = event.target.closest(".region, .frame");
      if (from && !from.contains(event.relatedTarget)) show(from.closest(".card"), null);
    });
  }
  document.addEventListener("pointermove", (event) => {
    const frame = event.pointerType === "mouse" && event.target.closest(".stage .frame");
    if (!frame) return;
    const card = frame.closest(".card"), region = regionAt(card, frame, event) ?? null;
    if (one(".region.active", card) !== region) show(card, region);
  });

  const keys = {
    "/": () => { search?.focus(); search?.select(); },
    "?": () => help.showModal(),
    o: toggleOverlay,
    j: () => step(1), ArrowRight: () => step(1),
    k: () => step(-1), ArrowLeft: () => step(-1),
    ArrowDown: () => step(columns()), ArrowUp: () => step(-columns()),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !search) return;
    if (event.target === search) {
      if (event.key === "Escape") { reset(); search.blur(); }
      return;
    }
    const vertical = event.key === "ArrowDown" || event.key === "ArrowUp";
    if (vertical && (opened || !document.activeElement.closest(".gallery .card"))) return; // the page scrolls
    if (help.open || (lightbox.open && (event.key === "/" || event.key === "?"))) return;
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  search?.addEventListener("input", filter);
})();
