"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const body = at("rows").querySelector("tbody");
  const pageSize = 25;
  let page = 0;
  const make = (tag, text, kind) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  };
  const names = [...new Set(data.samples.map((s) => s.b))];
  if (names.length > 1) at("benchmark").append(new Option("all", ""));
  names.forEach((name) => at("benchmark").append(new Option(name, name)));
  const sets = (lists) => Object.fromEntries(Object.entries(lists).map(([name, ids]) => [name, new Set(ids || [])]));
  const gained = sets(data.gained), lost = sets(data.lost);
  const tests = {
    all: () => true,
    right: (s) => s.r,
    wrong: (s) => !s.r,
    truncated: (s) => s.c,
    silent: (s) => s.e === null,
    elsewhere: (s) => s.o.length > 0,
    gained: (s) => gained[s.b].has(s.i),
    lost: (s) => lost[s.b].has(s.i),
  };
  const chosen = () => {
    const name = at("benchmark").value, test = tests[at("verdict").value], words = at("search").value.trim().toLowerCase();
    const holds = (s) => [s.p, s.t, s.a, s.e || "", s.w, s.i].some((text) => text.toLowerCase().includes(words));
    return data.samples.filter((s) => (!name || s.b === name) && test(s) && (!words || holds(s)));
  };
  const opened = (s) => {
    const row = make("tr"), cell = make("td", undefined, "open");
    cell.colSpan = 6;
    [["Prompt", s.p], ["Completion", s.t]].forEach(([title, text]) => cell.append(make("h4", title), make("pre", text)));
    const facts = make("dl");
    [["Extracted", s.e === null ? "nothing" : s.e], ["Reference", s.a], ["Compared as", s.m], ["Reason", s.w || "right"],
     ["Accepted by", s.o.join(", ")],
     ["Finish", s.c ? "cut at the token limit" : s.k ? "ended by itself" : "nothing was generated"], ["Log-probability", s.l === null ? "not kept" : s.l.toFixed(2)]]
      .filter(([, text]) => text !== "")
      .forEach(([name, text]) => { const one = make("div"); one.append(make("dt", name), make("dd", text)); facts.append(one); });
    cell.append(facts);
    row.append(cell);
    return row;
  };
  const rowOf = (s) => {
    const row = make("tr", undefined, "row");
    row.tabIndex = 0;
    const verdict = make("td");
    verdict.append(make("span", s.r ? "right" : "wrong", "mark " + (s.r ? "right" : "wrong")));
    if (s.c) verdict.append(make("span", " cut", "quiet"));
    row.append(make("td", (names.length > 1 ? s.b + " " : "") + s.i + (s.n ? " #" + s.n : "")), verdict,
      make("td", s.e === null ? "\u2013" : s.e), make("td", s.a), make("td", s.w, "quiet"), make("td", String(s.k), "number"));
    const toggle = () => {
      if (row.nextSibling && row.nextSibling.firstChild.className === "open") row.nextSibling.remove();
      else row.after(opened(s));
    };
    row.addEventListener("click", toggle);
    row.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); } });
    return row;
  };
  const show = () => {
    const list = chosen(), pages = Math.max(1, Math.ceil(list.length / pageSize));
    page = Math.min(page, pages - 1);
    body.replaceChildren(...list.slice(page * pageSize, (page + 1) * pageSize).map(rowOf));
    const cut = data.total > data.samples.length ? `; this page holds the first ${data.samples.length} of ${data.total}, the samples file has all` : "";
    at("count").textContent = `${list.length} of ${data.samples.length} samples${cut}. Select a row to read it.`;
    at("page").textContent = `${page + 1} of ${pages}`;
    at("previous").disabled = page === 0;
    at("next").disabled = page === pages - 1;
  };
  ["benchmark", "verdict", "search"].forEach((id) => at(id).addEventListener("input", () => { page = 0; show(); }));
  at("previous").addEventListener("click", () => { page -= 1; show(); });
  at("next").addEventListener("click", () => { page += 1; show(); });
  show();
})();
