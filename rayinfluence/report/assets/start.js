// The page reads well without any script: what follows adds search, order, choice and keys.
// Text of others is only ever set as text.
const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const queries = all("details.query");
const plural = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const signed = (value) => {
  const size = Math.abs(value);
  if (!size) return "0";
  const text = size >= 1e-3 && size < 1e6
    ? size.toLocaleString("en", { maximumSignificantDigits: 3 })
    : size.toExponential(1);
  return (value < 0 ? "-" : "+") + text;
};

// What a hit is found by. Its near copies are hits of their own, inside of it.
const known = new WeakMap();
function factsOf(card) {
  if (known.has(card)) return known.get(card);
  const own = [...card.children].filter((child) => !child.matches(".copies"));
  const keys = new Map();
  for (const child of own) {
    for (const key of all("dt.key", child)) {
      keys.set(key.textContent, key.nextElementSibling.textContent);
    }
  }
  const source = card.querySelector(":scope > .origin > .source");
  if (source) keys.set("source", source.textContent);
  const facts = {
    text: own.map((child) => child.textContent).join(" ").toLowerCase(),
    keys,
    flags: new Set((card.dataset.flags ?? "").split(" ").filter(Boolean)),
    scan: Number(card.dataset.scan),
    place: [...card.parentElement.children].indexOf(card),
  };
  known.set(card, facts);
  return facts;
}
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
