// Links unfold what they lead to, and show the method that it is of.
function reveal(element) {
  for (let at = element; at; at = at.parentElement) {
    if (at.matches("details")) at.open = true;
    if (at.matches(".panel")) at.previousElementSibling?.control?.click();
  }
  element.tabIndex = -1;
  element.scrollIntoView();
  element.focus({ preventScroll: true });
}
function follow() {
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (!wanted) return;
  const target = document.getElementById(wanted);
  if (target) return reveal(target);
  // A query that has a page of its own.
  const page = all(".overview a").find((link) => `${wanted}-`.startsWith(`${link.hash.slice(1)}-`));
  if (page && page.pathname !== location.pathname) location.replace(`${page.pathname}#${wanted}`);
}
addEventListener("hashchange", follow);
document.addEventListener("click", (event) => {
  const link = event.target.closest?.('a[href^="#"]');
  if (link && link.hash === location.hash) setTimeout(follow);
});

// A method chosen for one query is chosen for all of them.
document.addEventListener("change", (event) => {
  if (!event.target.matches(".pick")) return;
  const place = event.target.getBoundingClientRect().top;
  for (const pick of all(".pick")) if (pick.value === event.target.value) pick.checked = true;
  for (const query of queries) if (controls.has(query)) choose(query);
  scrollBy(0, event.target.getBoundingClientRect().top - place);
});

// Search over questions, hits and documents, one switch for all queries, and the colours.
const said = make("p", { class: "quiet", role: "status" });
const search = make("input", {
  type: "search",
  placeholder: "Search questions, hits, documents",
  "aria-label": "Search questions, hits, documents",
});
const toggle = make("button", { type: "button" });
const theme = make("button", { type: "button" });
const tools = make("div", { class: "tools" }, search, toggle, theme);
const lines = all(".overview tbody tr");
const isDark = () => {
  const classes = document.documentElement.classList;
  if (classes.contains("dark")) return true;
  return !classes.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches;
};
const nameTheme = () => (theme.textContent = isDark() ? "Light" : "Dark");
theme.addEventListener("click", () => {
  const dark = isDark();
  document.documentElement.classList.toggle("dark", !dark);
  document.documentElement.classList.toggle("light", dark);
  nameTheme();
});
nameTheme();

const isFolded = () => queries.some((query) => !query.open && !query.hidden);
const nameToggle = () => (toggle.textContent = isFolded() ? "Open all" : "Close all");
toggle.hidden = queries.length < 2;
search.hidden = queries.length === 1; // its hits have a search of their own
toggle.addEventListener("click", () => {
  const open = isFolded();
  for (const query of queries) query.open = open;
});
for (const query of queries) query.addEventListener("toggle", nameToggle);
nameToggle();

let wanted = "";
search.addEventListener("input", () => {
  wanted = search.value.trim().toLowerCase();
  const shown = new Set();
  let hits = 0;
  for (const query of queries) {
    const found = choose(query);
    hits += found;
    query.hidden = Boolean(wanted) && !found && !isAskedFor(query);
    if (!query.hidden) shown.add(query.id);
  }
  for (const line of lines) {
    const leads = line.querySelector("a")?.hash.slice(1) ?? "";
    const there = queries.length ? shown.has(leads.slice(0, 13)) || shown.has(leads) : false;
    line.hidden = !there && !line.textContent.toLowerCase().includes(wanted);
  }
  if (!wanted) said.textContent = "";
  else if (queries.length) {
    said.textContent = `${plural(hits, "hit")} in ${plural(shown.size, "question")} of ${queries.length}.`;
  } else {
    said.textContent = `${plural(lines.filter((line) => !line.hidden).length, "line")} of ${lines.length}.`;
  }
  nameToggle();
});
function isAskedFor(query) {
  const about = [query.querySelector("summary"), query.querySelector(":scope > .question")];
  return about.some((part) => part?.textContent.toLowerCase().includes(wanted));
}

// On paper all that is folded is open; browsers that open it by style alone do not need this.
let unfolded = [];
addEventListener("beforeprint", () => {
  const within = document.querySelector(".query.printed") ?? document;
  unfolded = all("details:not([open])", within);
  for (const fold of unfolded) fold.open = true;
});
addEventListener("afterprint", () => {
  for (const fold of unfolded) fold.open = false;
  document.body.classList.remove("one-query");
  document.querySelector(".query.printed")?.classList.remove("printed");
});
function printed(query) {
  query.classList.add("printed");
  document.body.classList.add("one-query");
  print();
}
