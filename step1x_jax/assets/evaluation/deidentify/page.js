"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const place = `step1x-review ${data.scan}`; // in this browser's storage
const ACTIONS = { keep: "K", redact: "R", replace: "P", drop: "D" };
const SMALLEST = 4; // pixels of a box's side
const element = (id) => document.getElementById(id);
const state = { picture: 0, reviewer: "", decisions: {} };
let chosen = -1; // box that keys change
const view = { scale: 1, x: 0, y: 0 };

const current = () => data.pictures[state.picture];
const decision = (picture = current()) => state.decisions[picture.digest];

function make(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// What is proposed before anybody has decided: nothing but the boxes that were found.
function proposal(picture) {
  return {
    action: null,
    boxes: picture.boxes.map(({ kind, x0, y0, x1, y1 }) => ({ kind, x0, y0, x1, y1, how: "fill" })),
    look_alike: null,
    instructions: picture.requests.map((one) => one.instruction),
  };
}

function restore() {
  for (const picture of data.pictures) state.decisions[picture.digest] = proposal(picture);
  try {
    const stored = JSON.parse(localStorage.getItem(place) || "{}");
    if (data.pictures[stored.picture]) state.picture = stored.picture;
    state.reviewer = String(stored.reviewer || "");
    for (const [digest, one] of Object.entries(stored.decisions || {})) {
      if (state.decisions[digest]) state.decisions[digest] = one;
    }
  } catch {
    notify("This browser keeps nothing: download your decisions before you close this page.");
  }
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(state));
  } catch {
    notify("This browser keeps nothing: download your decisions before you close this page.");
  }
}

function notify(text) {
  element("notice").textContent = text;
  element("notice").hidden = !text;
}

// Why a decision cannot be carried out yet; "" if it can.
function missing(picture) {
  const one = decision(picture);
  if (!one.action) return "Nothing is decided yet.";
  if (one.action === "redact" && !one.boxes.length) return "There is no box to redact.";
  if (one.action === "replace" && !one.look_alike) return "Choose a look-alike.";
  if (one.instructions.some((text) => !text.trim())) return "An instruction is empty.";
  return "";
}

function changed() {
  keep();
  update();
}

function show() {
  const picture = current();
  chosen = -1;
  const image = element("picture");
  image.src = picture.file;
  image.width = picture.width;
  image.height = picture.height;
  const svg = element("boxes");
  svg.setAttribute("width", picture.width);
  svg.setAttribute("height", picture.height);
  const kinds = picture.boxes.map((box) => box.kind);
  const counts = ["face", "text", "plate"].map((kind) => {
    const count = kinds.filter((one) => one === kind).length;
    return `${count} ${kind}${kind !== "text" && count !== 1 ? "s" : ""}`;
  });
  element("found").replaceChildren(
    make("b", { textContent: "Found: " }), counts.join(", "), make("br"),
    make("b", { textContent: "In the file: " }), picture.metadata.join("; ") || "no metadata",
  );
  element("instructions").replaceChildren(...picture.requests.map(request));
  element("lookalikes").replaceChildren(...picture.look_alikes.map(lookAlike));
  element("replacement").hidden = !picture.look_alikes.length;
  fit();
  update();
}

function request(one, i) {
  const text = make("textarea", { rows: 2, value: decision().instructions[i], maxLength: 10000 });
  text.oninput = () => {
    decision().instructions[i] = text.value;
    changed();
  };
  const reset = make("button", { type: "button", textContent: "as it was" });
  reset.onclick = () => {
    text.value = one.instruction;
    text.oninput();
  };
  const title = [one.task, one.language].filter(Boolean).join(", ");
  return make("div", { className: "request" }, [
    make("div", {}, [make("span", { textContent: title }), reset]), text,
  ]);
}

function lookAlike(one) {
  const note = one.same ? "a copy?" : one.name;
  const measures = `colours ${one.colour.toFixed(0)}, hash ${one.hash_bits}, edges ${one.edges.toFixed(2)}`;
  const button = make("button", { type: "button", title: `${one.name}: ${measures}` }, [
    make("img", { src: one.file, alt: one.name }),
    make("span", { textContent: note, className: one.same ? "same" : "" }),
  ]);
  button.setAttribute("role", "radio");
  button.dataset.digest = one.digest;
  button.onclick = () => {
    decision().look_alike = one.digest;
    decide("replace");
  };
  return button;
}

function decide(action) {
  if (action === "replace" && !current().look_alikes.length) return;
  decision().action = action;
  changed();
}

function update() {
  const picture = current();
  const one = decision();
  const decided = data.pictures.filter((each) => !missing(each)).length;
  element("place").textContent = `Picture ${state.picture + 1} of ${data.pictures.length}`;
  element("count").textContent = `${decided} decided`;
  element("done").style.width = `${(100 * decided) / data.pictures.length}%`;
  element("bar").setAttribute("aria-valuenow", decided);
  element("bar").setAttribute("aria-valuemax", data.pictures.length);
  element("export").classList.toggle("ready", decided === data.pictures.length);
  element("missing").textContent = missing(picture);
  for (const button of element("actions").children) {
    button.setAttribute("aria-checked", button.dataset.action === one.action);
    button.disabled = button.dataset.action === "replace" && !picture.look_alikes.length;
  }
  for (const button of element("lookalikes").children) {
    const is = one.action === "replace" && button.dataset.digest === one.look_alike;
    button.setAttribute("aria-checked", is);
  }
  [...element("overview").children].forEach((cell, i) => {
    const each = data.pictures[i];
    const action = missing(each) ? "" : decision(each).action;
    cell.className = `cell ${action} ${i === state.picture ? "current" : ""}`;
  });
  element("previous").disabled = state.picture === 0;
  element("next").disabled = state.picture === data.pictures.length - 1;
  element("list").replaceChildren(...one.boxes.map(row));
  drawBoxes();
}

function row(box, i) {
  const text = `${box.kind}, ${box.x1 - box.x0} × ${box.y1 - box.y0}`;
  const label = make("span", { textContent: text, onclick: () => choose(i) });
  const ways = ["fill", "blur"].map((how) => {
    const button = make("button", { type: "button", textContent: how, onclick: () => setHow(i, how) });
    button.setAttribute("aria-pressed", box.how === how);
    return button;
  });
  const remove = make("button", { type: "button", textContent: "✕", title: "remove" });
  remove.onclick = () => removeBox(i);
  return make("div", { className: i === chosen ? "row chosen" : "row" }, [label, ...ways, remove]);
}

function choose(i) {
  chosen = i;
  update();
}

function setHow(i, how) {
  decision().boxes[i].how = how;
  chosen = i;
  changed();
}

function removeBox(i) {
  decision().boxes.splice(i, 1);
  chosen = -1;
  changed();
}

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function drawBoxes() {
  const side = 11 / view.scale; // of a handle
  const parts = decision().boxes.flatMap((box, i) => {
    const { x0, y0, x1, y1 } = box;
    const name = `box ${box.how} ${i === chosen ? "chosen" : ""}`;
    const shape = svg("rect", {
      class: name, x: x0, y: y0, width: x1 - x0, height: y1 - y0, "data-box": i,
    });
    if (i !== chosen) return [shape];
    const corners = { nw: [x0, y0], ne: [x1, y0], sw: [x0, y1], se: [x1, y1] };
    const handles = Object.entries(corners).map(([corner, [x, y]]) =>
      svg("rect", {
        class: `handle ${corner}`, x: x - side / 2, y: y - side / 2, width: side, height: side,
        "data-box": i, "data-corner": corner,
      }),
    );
    return [shape, ...handles];
  });
  element("boxes").replaceChildren(...parts);
  drawBlur();
}

// A preview of what the export does: few mean colours with smooth transitions.
function drawBlur() {
  document.querySelectorAll("#layer canvas").forEach((one) => one.remove());
  if (!element("preview").checked || !element("picture").complete) return;
  const image = element("picture");
  const shrink = image.naturalWidth / current().width;
  for (const { x0, y0, x1, y1, how } of decision().boxes) {
    if (how !== "blur") continue;
    const few = make("canvas", { width: Math.min(4, x1 - x0), height: Math.min(4, y1 - y0) });
    const part = [x0 * shrink, y0 * shrink, (x1 - x0) * shrink, (y1 - y0) * shrink];
    few.getContext("2d").drawImage(image, ...part, 0, 0, few.width, few.height);
    few.style.cssText =
      `position:absolute;left:${x0}px;top:${y0}px;width:${x1 - x0}px;height:${y1 - y0}px`;
    element("layer").insertBefore(few, element("boxes"));
  }
}

// Drawing, moving and resizing boxes; moving the picture.
function toPicture(event) {
  const area = element("stage").getBoundingClientRect();
  return {
    x: (event.clientX - area.left - view.x) / view.scale,
    y: (event.clientY - area.top - view.y) / view.scale,
  };
}

const clamp = (value, low, high) => Math.min(Math.max(Math.round(value), low), high);

function spanned(a, b) {
  const { width, height } = current();
  return {
    x0: clamp(Math.min(a.x, b.x), 0, width), x1: clamp(Math.max(a.x, b.x), 0, width),
    y0: clamp(Math.min(a.y, b.y), 0, height), y1: clamp(Math.max(a.y, b.y), 0, height),
  };
}

function press(event) {
  if (event.target.closest("#tools")) return;
  if (event.button === 2 || spaceHeld) return drag(event, panning(event));
  if (event.button !== 0 || element("preview").checked) return;
  const start = toPicture(event);
  const index = Number(event.target.dataset.box ?? -1);
  const corner = event.target.dataset.corner;
  if (index < 0) return drag(event, drawing(start));
  choose(index);
  drag(event, corner ? resizing(index, corner) : moving(index, start));
}

function drag(event, { move, end = () => {} }) {
  event.preventDefault();
  document.activeElement?.blur();
  const stop = () => {
    removeEventListener("pointermove", move);
    end();
  };
  addEventListener("pointermove", move);
  addEventListener("pointerup", stop, { once: true });
}

function drawing(start) {
  const boxes = decision().boxes;
  let made = null;
  return {
    move(event) {
      if (!made) {
        made = { kind: "drawn", ...spanned(start, start), how: "fill" };
        boxes.push(made);
        chosen = boxes.length - 1;
      }
      Object.assign(made, spanned(start, toPicture(event)));
      drawBoxes();
    },
    end() {
      if (!made) return choose(-1);
      if (made.x1 - made.x0 < SMALLEST || made.y1 - made.y0 < SMALLEST) removeBox(boxes.length - 1);
      changed();
    },
  };
}

function moving(index, start) {
  const box = decision().boxes[index];
  const before = { ...box };
  return {
    move(event) {
      const now = toPicture(event);
      const { width, height } = current();
      const dx = clamp(now.x - start.x, -before.x0, width - before.x1);
      const dy = clamp(now.y - start.y, -before.y0, height - before.y1);
      Object.assign(box, {
        x0: before.x0 + dx, x1: before.x1 + dx, y0: before.y0 + dy, y1: before.y1 + dy,
      });
      drawBoxes();
    },
    end: changed,
  };
}

function resizing(index, corner) {
  const box = decision().boxes[index];
  const fixed = {
    x: corner.includes("w") ? box.x1 : box.x0, y: corner.includes("n") ? box.y1 : box.y0,
  };
  return {
    move(event) {
      const next = spanned(fixed, toPicture(event));
      if (next.x1 - next.x0 < SMALLEST || next.y1 - next.y0 < SMALLEST) return;
      Object.assign(box, next);
      drawBoxes();
    },
    end: changed,
  };
}

function panning(event) {
  const start = { x: event.clientX - view.x, y: event.clientY - view.y };
  element("stage").classList.add("moving");
  return {
    move(now) {
      [view.x, view.y] = [now.clientX - start.x, now.clientY - start.y];
      placeLayer();
    },
    end: () => element("stage").classList.remove("moving"),
  };
}

function placeLayer() {
  element("layer").style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
}

function fit() {
  const { clientWidth, clientHeight } = element("stage");
  const { width, height } = current();
  view.scale = Math.min(clientWidth / width, clientHeight / height) * 0.97;
  view.x = (clientWidth - width * view.scale) / 2;
  view.y = (clientHeight - height * view.scale) / 2;
  placeLayer();
  drawBoxes();
}

function zoom(event) {
  event.preventDefault();
  const area = element("stage").getBoundingClientRect();
  const [x, y] = [event.clientX - area.left, event.clientY - area.top];
  const scale = Math.min(Math.max(view.scale * Math.exp(-event.deltaY / 400), 0.02), 40);
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  placeLayer();
  drawBoxes();
}

function go(to) {
  if (!data.pictures[to]) return;
  state.picture = to;
  keep();
  show();
}

const withoutKind = ({ x0, y0, x1, y1, how }) => ({ x0, y0, x1, y1, how });

function download() {
  if (!state.reviewer.trim()) {
    notify("Write your name into the field Reviewer: the audit log says who decided.");
    element("reviewer").focus();
    return;
  }
  notify("");
  const decided = data.pictures.filter((one) => !missing(one));
  const values = {
    format: data.format,
    scan: data.scan,
    reviewer: state.reviewer.trim(),
    exported: new Date().toISOString(),
    decisions: Object.fromEntries(
      decided.map((picture) => {
        const one = decision(picture);
        return [picture.digest, {
          action: one.action,
          boxes: one.action === "redact" ? one.boxes.map(withoutKind) : [],
          look_alike: one.action === "replace" ? one.look_alike : null,
          instructions: one.instructions,
        }];
      }),
    ),
  };
  const blob = new Blob([JSON.stringify(values, null, 1)], { type: "application/json" });
  const link = make("a", {
    href: URL.createObjectURL(blob), download: `decisions-${data.scan}.json`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

let spaceHeld = false;

function type(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || element("keys").open) return;
  if (event.target.matches("textarea, input[type=text]")) return;
  const key = event.key.length === 1 ? event.key.toUpperCase() : event.key;
  const action = Object.keys(ACTIONS).find((name) => ACTIONS[name] === key);
  const onButton = event.target.matches("button:not(#actions button)");
  if (action) decide(action);
  else if (key === "ArrowRight" || (key === "Enter" && !onButton)) go(state.picture + 1);
  else if (key === "ArrowLeft") go(state.picture - 1);
  else if ((key === "Delete" || key === "Backspace") && chosen >= 0) removeBox(chosen);
  else if ((key === "F" || key === "B") && chosen >= 0) setHow(chosen, key === "F" ? "fill" : "blur");
  else if (key === "V") element("preview").click();
  else if (key === " " && !onButton) spaceHeld = true;
  else if (key === "?") element("keys").showModal();
  else return;
  event.preventDefault();
}

for (const [action, key] of Object.entries(ACTIONS)) {
  const name = action[0].toUpperCase() + action.slice(1);
  const button = make("button", {
    type: "button", textContent: name, title: `${name} (${key})`, onclick: () => decide(action),
  });
  button.setAttribute("role", "radio");
  button.dataset.action = action;
  element("actions").append(button);
}
element("overview").append(
  ...data.pictures.map((_, i) =>
    make("button", { type: "button", textContent: i + 1, onclick: () => go(i) }),
  ),
);
addEventListener("keydown", type);
addEventListener("keyup", (event) => {
  if (event.key === " ") spaceHeld = false;
});
addEventListener("resize", fit);
element("stage").addEventListener("pointerdown", press);
element("stage").addEventListener("wheel", zoom, { passive: false });
element("stage").addEventListener("contextmenu", (event) => event.preventDefault());
element("picture").addEventListener("load", drawBlur);
element("preview").onchange = (event) => {
  element("stage").classList.toggle("preview", event.target.checked);
  event.target.blur();
  drawBlur();
};
element("fit").onclick = fit;
element("previous").onclick = () => go(state.picture - 1);
element("next").onclick = () => go(state.picture + 1);
element("export").onclick = download;
element("help").onclick = () => element("keys").showModal();
element("close").onclick = () => element("keys").close();
element("reviewer").oninput = (event) => {
  state.reviewer = event.target.value;
  keep();
};

restore();
element("reviewer").value = state.reviewer;
show();
