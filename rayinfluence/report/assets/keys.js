// Keys: through the hits, into one, and back.
const KEYS = [
  ["j, k", "next hit, previous hit"],
  ["↓ ↑", "the same, from a hit"],
  ["← →", "token before, token after, in a hit; their numbers"],
  ["Enter", "what the token moved in the answer"],
  ["o", "open or close the details of a hit"],
  ["c", "copy the citation of a hit"],
  ["/", "search"],
  ["Escape", "let go of what is chosen"],
  ["?", "this help"],
];
let listening = true;
const silence = make("button", { type: "button" }, "Turn keys off");
silence.addEventListener("click", () => {
  listening = !listening;
  silence.textContent = listening ? "Turn keys off" : "Turn keys on";
});
const help = make(
  "dialog",
  { "aria-label": "Keys" },
  make("h2", {}, "Keys"),
  make(
    "dl",
    {},
    ...KEYS.flatMap(([key, what]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, what)]),
  ),
  make("form", { method: "dialog" }, silence, " ", make("button", {}, "Close")),
);
const asks = make("button", { type: "button" }, "Keys");
asks.addEventListener("click", () => help.showModal());

const seen = () => all(".query[open] .card").filter((card) => card.checkVisibility());
const cardInFocus = () => document.activeElement?.closest?.(".card");
function step(by) {
  const cards = seen();
  const at = cards.indexOf(cardInFocus());
  const next = cards[at < 0 ? (by > 0 ? 0 : cards.length - 1) : at + by];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "nearest" });
}
function stepToken(card, by) {
  const tokens = split(card).filter((token) => token.checkVisibility() && token.textContent);
  const at = tokens.findIndex((token) => token.classList.contains("here"));
  const token = tokens[Math.min(Math.max(at + by, 0), tokens.length - 1)];
  if (!token) return;
  for (const other of all(".here", card)) other.classList.remove("here");
  token.classList.add("here");
  tell(card, token);
}
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input:not([type=radio]), select, textarea");
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  if (event.key === "Escape") {
    for (const query of queries) if (query.querySelector(".moved")) chooseSpan(query, null);
    return;
  }
  if (typing) return;
  const card = cardInFocus();
  const onCard = card && document.activeElement === card;
  const does = {
    j: listening && (() => step(1)),
    k: listening && (() => step(-1)),
    o: listening && card && (() => {
      const more = card.querySelector(":scope > .foot > .more");
      more.open = !more.open;
    }),
    c: listening && card && (async () => {
      await copy(card.querySelector(".citation").firstChild.data);
      said.textContent = "Citation copied.";
    }),
    "/": listening && (() => {
      // Where there is a single question, its hits have the only search.
      const shown = all('input[type="search"]').find((input) => input.checkVisibility());
      shown?.focus();
    }),
    "?": listening && (() => help.showModal()),
    ArrowDown: onCard && (() => step(1)),
    ArrowUp: onCard && (() => step(-1)),
    ArrowRight: onCard && (() => stepToken(card, 1)),
    ArrowLeft: onCard && (() => stepToken(card, -1)),
    Enter: onCard && card.querySelector(".here") && (() => onToken(card, card.querySelector(".here"))),
  }[event.key];
  if (!does) return;
  does();
  event.preventDefault();
});

tools.append(asks, said);
document.querySelector("header").after(tools);
document.body.append(help);
follow();
