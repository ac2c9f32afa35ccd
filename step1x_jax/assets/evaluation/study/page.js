"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const place = `step1x-study ${data.study} ${data.participant}`; // in this browser's storage
const total = data.samples.reduce((sum, sample) => sum + sample.pictures.length, 0);
const known = new Set(data.samples.flatMap((sample) => sample.pictures.map((one) => one.id)));
const state = { ratings: {}, sample: 0 };
let framed = 0; // of the sample's pictures, the one that keys rate
const element = (id) => document.getElementById(id);

function make(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function restore() {
  try {
    const stored = JSON.parse(localStorage.getItem(place) || "{}");
    for (const [id, level] of Object.entries(stored.ratings || {})) {
      if (known.has(id) && level >= 1 && level <= data.levels.length) state.ratings[id] = level;
    }
    if (data.samples[stored.sample]) state.sample = stored.sample;
  } catch {
    notify("This browser keeps nothing: download your answers before you close this page.");
  }
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(state));
  } catch {
    notify("This browser keeps nothing: download your answers before you close this page.");
  }
}

function notify(text) {
  element("notice").textContent = text;
  element("notice").hidden = !text;
}

const current = () => data.samples[state.sample];
const count = () => Object.keys(state.ratings).length;

function showSample() {
  const sample = current();
  element("instruction").textContent = sample.instruction;
  const source = make("figure", {}, [
    make("figcaption", { textContent: "Source" }),
    picture(sample, sample.source, "Source", 0),
  ]);
  const results = sample.pictures.map((one, i) =>
    make("figure", { onclick: () => frame(i) }, [
      make("figcaption", { textContent: `Result ${i + 1}` }),
      picture(sample, one.file, `Result ${i + 1}`, i + 1),
      levels(one.id, i),
    ]),
  );
  element("source").replaceChildren(source);
  element("results").replaceChildren(...results);
  const unrated = sample.pictures.findIndex((one) => !state.ratings[one.id]);
  frame(Math.max(unrated, 0));
  for (const file of filesAhead()) new Image().src = file;
  update();
  scrollTo(0, 0);
}

function filesAhead() {
  const next = data.samples[state.sample + 1];
  return next ? [next.source, ...next.pictures.map((one) => one.file)] : [];
}

function picture(sample, file, alt, number) {
  const { width, height } = sample;
  return make("img", { src: file, alt, width, height, onclick: () => enlarge(number) });
}

function levels(id, i) {
  const buttons = data.levels.map((name, level) => {
    const button = make("button", { type: "button", onclick: () => rate(i, level + 1) }, [
      make("b", { textContent: level + 1 }),
      name,
    ]);
    button.setAttribute("role", "radio");
    return button;
  });
  const group = make("div", { className: "levels" }, buttons);
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", `Result ${i + 1}`);
  group.dataset.picture = id;
  return group;
}

function frame(i) {
  framed = i;
  const figures = document.querySelectorAll("#results figure");
  figures.forEach((one, number) => one.classList.toggle("framed", number === i));
  figures[i].scrollIntoView({ block: "nearest" });
}

function rate(i, level) {
  state.ratings[current().pictures[i].id] = level;
  keep();
  update();
  if (element("viewer").hidden) frame(Math.min(i + 1, current().pictures.length - 1));
}

function update() {
  for (const group of document.querySelectorAll(".levels")) {
    const level = state.ratings[group.dataset.picture];
    [...group.children].forEach((button, i) => button.setAttribute("aria-checked", i + 1 === level));
  }
  const done = count();
  element("place").textContent = `Sample ${state.sample + 1} of ${data.samples.length}`;
  element("count").textContent = `${done} of ${total} pictures rated`;
  element("done").style.width = `${(100 * done) / total}%`;
  element("bar").setAttribute("aria-valuenow", done);
  element("bar").setAttribute("aria-valuemax", total);
  element("export").classList.toggle("ready", done === total);
  element("previous").disabled = state.sample === 0;
  element("next").disabled = state.sample === data.samples.length - 1;
  if (done === total) notify("All pictures are rated. Download your answers and send the file back.");
  else if (element("notice").textContent.startsWith("All")) notify("");
}

function go(step) {
  const sample = state.sample + step;
  if (!data.samples[sample]) return;
  state.sample = sample;
  keep();
  showSample();
}

function download() {
  const answers = {
    format: data.format,
    study: data.study,
    participant: data.participant,
    exported: new Date().toISOString(),
    ratings: state.ratings,
  };
  const blob = new Blob([JSON.stringify(answers, null, 1)], { type: "application/json" });
  const link = make("a", {
    href: URL.createObjectURL(blob),
    download: `answers-${data.study}-${data.participant}.json`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function showSource(shown) {
  document.querySelectorAll("#results img").forEach((image, i) => {
    image.src = shown ? current().source : current().pictures[i].file;
  });
}

// The enlarged picture: 0 is the source. Scale and place stay when another one is shown.
const view = { number: 0, scale: 1, x: 0, y: 0 };

function enlarge(number) {
  if (number) frame(number - 1);
  element("viewer").hidden = false;
  document.body.style.overflow = "hidden";
  const { width, height } = current();
  view.scale = Math.min(innerWidth / width, innerHeight / height);
  view.x = (innerWidth - width * view.scale) / 2;
  view.y = (innerHeight - height * view.scale) / 2;
  showLarge(number);
}

function showLarge(number) {
  const sample = current();
  const files = [sample.source, ...sample.pictures.map((one) => one.file)];
  view.number = (number + files.length) % files.length;
  element("large").src = files[view.number];
  element("large").width = sample.width;
  element("large").height = sample.height;
  const level = view.number && state.ratings[sample.pictures[view.number - 1].id];
  const name = view.number ? `Result ${view.number}` : "Source";
  element("caption").textContent = level ? `${name}: ${data.levels[level - 1]}` : name;
  if (view.number) frame(view.number - 1);
  move();
}

function move() {
  element("large").style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
}

function zoom(factor, x, y) {
  const scale = Math.min(Math.max(view.scale * factor, 0.1), 16);
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  move();
}

function leave() {
  element("viewer").hidden = true;
  document.body.style.overflow = "";
}

function pressInViewer(event) {
  const middle = [innerWidth / 2, innerHeight / 2];
  const level = Number(event.key);
  if (event.key === "Escape" || event.key.toLowerCase() === "z") leave();
  else if (event.key === "ArrowRight") showLarge(view.number + 1);
  else if (event.key === "ArrowLeft") showLarge(view.number - 1);
  else if (event.key === "+" || event.key === "=") zoom(1.25, ...middle);
  else if (event.key === "-") zoom(0.8, ...middle);
  else if (level >= 1 && level <= data.levels.length && view.number) {
    rate(view.number - 1, level);
    showLarge(view.number);
  } else return;
  event.preventDefault();
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || element("keys").open) return;
  if (!element("viewer").hidden) return pressInViewer(event);
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const level = Number(key);
  const onButton = document.activeElement?.matches("button:not(.levels button)");
  if (level >= 1 && level <= data.levels.length) rate(framed, level);
  else if (key === "ArrowRight") frame(Math.min(framed + 1, current().pictures.length - 1));
  else if (key === "ArrowLeft") frame(Math.max(framed - 1, 0));
  else if (key === "Enter" && !onButton) go(1);
  else if (key === "Backspace") go(-1);
  else if (key === "z") enlarge(framed + 1);
  else if (key === "s" && !event.repeat) showSource(true);
  else if (key === "?") element("keys").showModal();
  else return;
  event.preventDefault();
}

addEventListener("keydown", press);
addEventListener("keyup", (event) => event.key.toLowerCase() === "s" && showSource(false));
addEventListener("blur", () => showSource(false));
element("previous").onclick = () => go(-1);
element("next").onclick = () => go(1);
element("export").onclick = download;
element("help").onclick = () => element("keys").showModal();
element("close").onclick = () => element("keys").close();
element("viewer").addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
}, { passive: false });
element("viewer").addEventListener("pointerdown", (event) => {
  const start = { x: event.clientX - view.x, y: event.clientY - view.y };
  let moved = false;
  const drag = (now) => {
    moved ||= Math.hypot(now.clientX - event.clientX, now.clientY - event.clientY) > 4;
    if (!moved) return;
    [view.x, view.y] = [now.clientX - start.x, now.clientY - start.y];
    move();
  };
  const drop = () => {
    removeEventListener("pointermove", drag);
    if (!moved) leave();
  };
  addEventListener("pointermove", drag);
  addEventListener("pointerup", drop, { once: true });
});

restore();
showSample();
