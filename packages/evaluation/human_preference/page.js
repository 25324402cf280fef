"use strict";
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const made = (name, kind, text = "") => Object.assign(document.createElement(name), { className: kind, textContent: text });
  const content = JSON.parse(one("#content").textContent);
  const { questions } = content;
  const store = `scenewright-judging-${content.id}`;

  // the answers, in the order of the questions: the next one to ask is the one after the last
  let judge = "", answers = [];
  let since = 0, spent = 0; // milliseconds: when the question was last seen, and for how long before

  function remember() {
    try {
      localStorage.setItem(store, JSON.stringify({ judge, answers }));
    } catch {
      one("#forgetful").hidden = false;
    }
  }

  function recall() {
    try {
      const known = JSON.parse(localStorage.getItem(store) ?? "{}");
      const whole = Array.isArray(known.answers) && known.answers.length <= questions.length
        && known.answers.every((x) => ["a", "b", "tie"].includes(x.choice) && x.seconds >= 0);
      if (whole && typeof known.judge === "string" && known.judge) ({ judge, answers } = known);
    } catch { /* none, or not ours */ }
  }

  function screen(name) {
    document.body.dataset.screen = name;
    const done = answers.length;
    one("#count").textContent = name === "judging" ? `${done + 1} of ${questions.length}` : done ? `${done} of ${questions.length} answered` : "";
    one("#progress").setAttribute("aria-valuenow", done);
    one("#progress i").style.width = `${(100 * done) / questions.length}%`;
  }

  function next() {
    remember();
    if (answers.length === questions.length) return end();
    show(questions[answers.length]);
    screen("judging");
    placeNames();
    window.scrollTo(0, 0);
    one("#undo").disabled = !answers.length;
    since = performance.now();
    spent = 0;
    for (const picture of questions[answers.length + 1]?.pictures ?? []) new Image().src = content.pictures[picture];
  }

  function show(question) {
    one("#caption").textContent = question.caption;
    one("#caption").hidden = !question.caption;
    ["#left", "#right"].forEach((side, i) => {
      const image = one(`${side} img`);
      image.onload = () => {
        one(side).style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
        image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= 256);
      };
      image.src = content.pictures[question.pictures[i]];
    });
    one("#plan").style.setProperty("--ratio", question.ratio);
    for (const side of all(".stage .boxes")) side.replaceChildren(...boxes(question.regions));
    one(".regions").replaceChildren(...question.regions.map(line));
    if (!question.regions.length) one(".regions").replaceChildren(made("li", "none", "No box: the whole picture is free."));
  }

  // large ones first, so that small ones lie above them and can be pointed at
  function boxes(regions) {
    const area = ({ box }) => box[2] * box[3];
    return regions.map((region, i) => [region, i]).sort((a, b) => area(b[0]) - area(a[0])).map(([region, i]) => {
      const box = made("span", "box"), name = made("span", "name");
      const [left, top, width, height] = region.box;
      Object.assign(box.style, { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` });
      box.style.setProperty("--c", region.colour);
      box.dataset.region = i;
      name.append(made("b", "", i + 1), made("span", "word", region.label));
      box.append(name);
      return box;
    });
  }

  function line(region, i) {
    const item = made("li", "region");
    item.dataset.region = i;
    item.style.setProperty("--c", region.colour);
    const words = made("span", "words");
    words.append(made("bdi", "label", region.label || (region.caption ? "" : "(no name)")));
    if (region.caption && region.caption !== region.label) words.append(" ", made("bdi", "rich", region.caption));
    item.append(made("b", "number", i + 1), words);
    return item;
  }

  // in the layout: numbers go to corners of their boxes where they cover no other, then names to where they still fit
  const corners = ["top left", "bottom left", "top right", "bottom right"];
  function placeNames() {
    const names = all("#plan .name"), placed = new Map();
    const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    const frame = one("#plan .frame").getBoundingClientRect();
    const set = (name, short, corner) => {
      name.classList.toggle("short", short);
      name.dataset.corner = corner;
    };
    const place = (name, short) => corners.some((corner) => {
      set(name, short, corner);
      const area = name.getBoundingClientRect();
      if (area.left < frame.left - 1 || area.right > frame.right + 1) return false;
      return ![...placed].some(([other, x]) => other !== name && meet(x, area));
    });
    for (const name of names) {
      if (!place(name, true)) set(name, true, corners[0]);
      placed.set(name, name.getBoundingClientRect());
    }
    for (const name of names) {
      const { corner } = name.dataset;
      if (!place(name, false)) set(name, true, corner);
      placed.set(name, name.getBoundingClientRect());
    }
  }

  function answer(choice) {
    const seconds = Math.round(spent + (document.hidden ? 0 : performance.now() - since)) / 1000;
    answers.push({ choice, seconds });
    next();
  }

  function undo() {
    if (!answers.length) return;
    answers.pop();
    next();
  }

  // the run that was chosen, or that none was
  const chosen = (i) => ({ a: questions[i].runs[0], b: questions[i].runs[1], tie: "" })[answers[i].choice];

  function end() {
    screen("end");
    const again = questions.map((x, i) => [x.again, i]).filter(([first]) => first !== undefined);
    const same = again.filter(([first, i]) => chosen(first) === chosen(i)).length;
    const ties = answers.filter((x) => x.choice === "tie").length;
    one("#counted").textContent = `${answers.length} answers, ${ties} of them “no difference”. Please download them and hand the file back.`;
    one("#consistency").hidden = !again.length;
    one("#consistency").textContent = `${again.length} of the pairs were shown to you twice, with the sides changed. You gave the same answer to ${same} of them (${Math.round((100 * same) / again.length)} %).`;
  }

  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

  function csv() {
    const rows = answers.map((x, i) => {
      const { key, image, runs } = questions[i];
      return [key, image, ...runs, x.choice, judge, x.seconds];
    });
    return [content.columns, ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
  }

  function download() {
    const link = made("a", "");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = `votes-${judge.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "nobody"}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  function toggleBoxes() {
    const on = document.body.classList.toggle("boxed");
    one("#boxes").setAttribute("aria-pressed", on);
  }

  function point(region) {
    all(".stage [data-region]").forEach((x) => x.classList.toggle("active", x.dataset.region === region));
  }

  function start() {
    recall();
    one("#judge").value = judge;
    one("#begin").textContent = answers.length ? "Continue" : "Begin";
    one("#forget").hidden = !answers.length;
    screen("start");
    one("#judge").focus();
  }

  one("#who").addEventListener("submit", (event) => {
    event.preventDefault();
    // a name of its own, so that two who give none are two
    judge = one("#judge").value.trim().replace(/\s+/g, " ") || judge
      || `judge-${Math.floor(Math.random() * 2 ** 32).toString(16).padStart(8, "0")}`;
    one("#judge").blur();
    next();
  });
  one("#forget").addEventListener("click", () => {
    if (!confirm("Forget all answers that are not downloaded?")) return;
    judge = "";
    answers = [];
    try { localStorage.removeItem(store); } catch { /* it was never kept */ }
    start();
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (event.detail) button.blur(); // a key is then for the question, not for the button that was clicked last
    if (button.dataset.choice) answer(button.dataset.choice);
    else if (button.id === "undo" || button.id === "back") undo();
    else if (button.id === "boxes") toggleBoxes();
    else if (button.id.startsWith("download")) download();
    else if (button.matches(".side .frame")) {
      one("#large img").src = one("img", button).src;
      one("#large img").className = one("img", button).className;
      one("#large").showModal();
    } else if (button.closest("#large")) one("#large").close();
  });
  document.addEventListener("pointerover", (event) => point(event.target.closest(".stage [data-region]")?.dataset.region));

  const keys = {
    ArrowLeft: () => answer("a"), ArrowRight: () => answer("b"), " ": () => answer("tie"), Backspace: undo, b: toggleBoxes,
  };
  document.addEventListener("keydown", (event) => {
    const { screen } = document.body.dataset;
    if (event.ctrlKey || event.metaKey || event.altKey || screen === "start" || one("#large").open) return;
    const act = keys[event.key];
    if (!act || (event.key === " " && event.target.closest("button"))) return; // reached with the tab key: its own
    event.preventDefault();
    if (!event.repeat && (screen === "judging" || event.key === "Backspace")) act(); // a held key is one answer
  });

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) spent += performance.now() - since;
    else since = performance.now();
  });
  window.addEventListener("resize", placeNames);
  start();
})();
