// Hits of a query: searched, ordered and chosen among. The controls are made when it is opened.
const SIDES = [["", "raising and lowering"], ["proponents", "raising"], ["opponents", "lowering"]];
const FLAGS = [
  ["", "any flags"],
  ["-suspect", "not suspect"],
  ["suspect", "suspect"],
  ["copy", "near copies"],
  ["carried", "carried by one token"],
  ["in-completion", "carried by a token of the answer"],
  ["beyond", "beyond the linear range"],
  ["-beyond", "within the linear range"],
];
const ORDERS = [["place", "by score"], ["scan", "by rank in the scan"], ["source", "by source"]];
// Keys with more values than a menu holds are found by searching.
const MOST_VALUES = 40;
const controls = new WeakMap();

function menu(label, entries) {
  const options = entries.map(([value, text]) => make("option", { value }, text));
  return make("select", { "aria-label": label }, ...options);
}
function whereMenu(cards) {
  const values = new Map();
  for (const card of cards) {
    for (const [key, value] of factsOf(card).keys) {
      if (!values.has(key)) values.set(key, new Set());
      values.get(key).add(value);
    }
  }
  const pairs = [];
  const select = menu("From", [["", "from anywhere"]]);
  for (const [key, found] of values) {
    if (found.size < 2 || found.size > MOST_VALUES) continue;
    const group = make("optgroup", { label: key });
    for (const value of [...found].sort()) {
      group.append(make("option", { value: String(pairs.length) }, value || "(empty)"));
      pairs.push([key, value]);
    }
    select.append(group);
  }
  select.hidden = !pairs.length;
  return { select, pairs };
}
function control(query) {
  if (controls.has(query)) return controls.get(query);
  const cards = all(".card", query);
  for (const card of cards) card.tabIndex = -1;
  const words = make("input", {
    type: "search",
    placeholder: "Search these hits",
    "aria-label": "Search the hits of this question",
  });
  const { select: where, pairs } = whereMenu(cards);
  const side = menu("Which side", SIDES);
  side.hidden = !query.querySelector(".opponents");
  const flag = menu("Flags", FLAGS);
  const order = menu("Order", ORDERS);
  const paper = make("button", { type: "button" }, "Print this question");
  const count = make("p", { class: "quiet", role: "status" });
  const bar = make("details", { class: "fold controls" },
    make("summary", {}, "Search, order, choose, print"),
    make("div", { class: "tools" }, words, order, side, where, flag, paper, count));
  bar.open = matchMedia("(min-width: 48rem)").matches;
  const made = { cards, words, where, pairs, side, flag, order, count, bar };
  controls.set(query, made);
  for (const one of [words, where, side, flag]) {
    one.addEventListener("input", () => choose(query));
  }
  order.addEventListener("input", () => arrange(query));
  paper.addEventListener("click", () => printed(query));
  query.querySelector(":scope > .methods, :scope > .method").before(bar);
  return made;
}
function isChosen(card, made, asked) {
  const facts = factsOf(card);
  const words = made?.words.value.trim().toLowerCase() ?? "";
  if (!asked && !facts.text.includes(wanted)) return false;
  if (!made) return true;
  if (!facts.text.includes(words)) return false;
  if (made.side.value && !card.closest(`.${made.side.value}`)) return false;
  const flag = made.flag.value;
  if (flag && facts.flags.has(flag.replace("-", "")) === flag.startsWith("-")) return false;
  const [key, value] = made.pairs[made.where.value] ?? [];
  return key === undefined || facts.keys.get(key) === value;
}
const isOfSeenMethod = (card) =>
  card.closest(".panel").previousElementSibling?.control?.checked ?? true;
// Shows the hits that are wanted, and says how many of the method that is seen there are.
function choose(query) {
  const made = controls.get(query);
  const asked = !wanted || isAskedFor(query);
  const cards = made?.cards ?? all(".card", query);
  let found = 0;
  for (const card of cards) {
    const there = isChosen(card, made, asked);
    card.hidden = !there;
    found += there && isOfSeenMethod(card);
  }
  for (const card of cards) {
    if (card.hidden) continue;
    const above = card.parentElement.closest(".card");
    if (above) above.hidden = false;
  }
  if (made) {
    const n = cards.filter(isOfSeenMethod).length;
    made.count.textContent = n === found ? "" : `${plural(found, "hit")} of ${n} shown.`;
  }
  return found;
}
function arrange(query) {
  const { order } = control(query);
  const focused = document.activeElement;
  const compare = {
    place: () => 0,
    scan: (a, b) => factsOf(a).scan - factsOf(b).scan,
    source: (a, b) =>
      (factsOf(a).keys.get("source") ?? "").localeCompare(factsOf(b).keys.get("source") ?? ""),
    part: (a, b) => Math.abs(partScore(b)) - Math.abs(partScore(a)),
  }[order.value];
  for (const list of all(".side > ol", query)) {
    const items = [...list.children];
    items.forEach(factsOf);
    items.sort((a, b) => compare(a, b) || factsOf(a).place - factsOf(b).place);
    if (items.some((item, place) => item !== list.children[place])) list.append(...items);
  }
  if (query.contains(focused)) focused.focus({ preventScroll: true });
}
for (const query of queries) {
  if (!query.querySelector(":scope > .methods, :scope > .method")) continue; // of a comparison
  if (query.open) control(query);
  query.addEventListener("toggle", () => query.open && control(query));
}
// A citation is copied by a button beside it.
document.addEventListener(
  "toggle",
  (event) => {
    const cited = event.target.matches?.(".more[open]") && event.target.querySelector(".citation");
    if (!cited || cited.querySelector("button")) return;
    const button = make("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      await copy(cited.firstChild.data);
      button.textContent = "Copied";
    });
    cited.append(button);
  },
  true,
);
