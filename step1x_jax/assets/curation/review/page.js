"use strict";
// {"key", "reasons": {name: words}, "edits": [{"id", "category", "picture", "en", "cn"}]}
const data = JSON.parse(document.getElementById("data").textContent);
const place = `step1x-review ${data.key}`; // in this browser's storage, of this page alone
const verdicts = new Map(Object.entries(JSON.parse(localStorage.getItem(place) || "{}")));
const sections = new Map();

function add(parent, tag, text = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  parent.append(made);
  return made;
}

function judge(id, verdict) {
  const select = sections.get(id).querySelector("select");
  verdicts.set(id, { id, verdict, reason: verdict === "reject" ? select.value : "" });
  localStorage.setItem(place, JSON.stringify(Object.fromEntries(verdicts)));
  show();
}

function show() {
  for (const [id, said] of verdicts) {
    const section = sections.get(id);
    if (!section) continue;
    section.dataset.verdict = said.verdict;
    if (said.reason) section.querySelector("select").value = said.reason;
  }
  document.getElementById("count").textContent = `${verdicts.size} of ${sections.size}`;
}

for (const edit of data.edits) {
  const section = add(document.querySelector("main"), "section");
  sections.set(edit.id, section);
  const head = add(section, "h2", `${edit.category} `);
  add(head, "small", edit.id);
  for (const name of ["source", "target"]) {
    const image = add(section, "img");
    image.loading = "lazy";
    image.alt = name;
    image.src = `pictures/${edit.picture}-${name}.jpg`;
  }
  const text = add(section, "p");
  add(text, "span", edit.en);
  add(text, "br");
  add(text, "span", edit.cn).lang = "zh";
  for (const verdict of ["keep", "reject"]) {
    add(section, "button", verdict).addEventListener("click", () => judge(edit.id, verdict));
  }
  const select = add(section, "select");
  for (const [name, words] of Object.entries(data.reasons)) add(select, "option", words).value = name;
  select.addEventListener("change", () => judge(edit.id, "reject"));
}

document.getElementById("save").addEventListener("click", () => {
  const lines = [...verdicts.values()].map((one) => `${JSON.stringify(one)}\n`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/json" }));
  link.download = "verdicts.jsonl";
  link.click();
});
show();
