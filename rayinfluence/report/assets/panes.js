// The answer and the hits, linked both ways, by scores of pairs of their tokens. In the page these
// are whole multiples of a step (a 127th of the hit's largest): right to half a step.
const LEVELS = 8;
const panes = new WeakMap();
const chosen = new WeakMap();

function paneOf(card) {
  if (!panes.has(card)) {
    const sums = card.dataset.sums.split(",").map(Number);
    const bytes = Uint8Array.from(atob(card.dataset.pairs), (one) => one.charCodeAt(0));
    const steps = new Int8Array(bytes.buffer);
    panes.set(card, { sums, steps, step: Number(card.dataset.step), width: steps.length / sums.length });
  }
  return panes.get(card);
}
const paired = (query) => all(".card[data-pairs]", query);
const ownTexts = (card) =>
  all(":scope > .text, :scope > .fold:not(.copies) > .text[data-sizes]", card);

// Each token of a hit as an element of its own; heat has been put on some of them before.
function split(card) {
  if (card.dataset.pairs === undefined) return ownTexts(card).flatMap((text) => all("b", text));
  const tokens = [];
  for (const text of ownTexts(card)) {
    if (!text.dataset.done) {
      const sizes = text.dataset.sizes.split(",").map(Number);
      const made = [];
      for (const node of [...text.childNodes]) {
        if (node.nodeType === Node.ELEMENT_NODE) {
          node.dataset.was = node.className;
          node.dataset.said = node.title;
          made.push(node);
          continue;
        }
        let rest = node.data;
        while (rest) {
          const size = sizes[made.length];
          made.push(make("b", {}, rest.slice(0, size)));
          rest = size ? rest.slice(size) : "";
        }
      }
      text.replaceChildren(...made);
      text.dataset.done = "yes";
    }
    tokens.push(...text.children);
  }
  return tokens;
}
function colour(token, value, largest) {
  const level = largest ? Math.trunc((LEVELS * Math.abs(value)) / largest) : 0;
  token.className = level ? (value > 0 ? "p" : "n") + level : "";
  token.title = value ? signed(value) : "";
}
// A span of the answer, from one part to another, colours the hits; none gives them back.
function chooseSpan(query, span) {
  clearToken(query);
  if (span) chosen.set(query, span);
  else chosen.delete(query);
  for (const part of all("[data-part]", query)) {
    const at = Number(part.dataset.part);
    part.setAttribute("aria-pressed", String(Boolean(span) && at >= span[0] && at <= span[1]));
  }
  // What is in sight at once, and the rest after that.
  const [near, far] = [[], []];
  for (const card of paired(query)) {
    const { top, bottom } = card.getBoundingClientRect();
    (bottom > 0 && top < innerHeight ? near : far).push(card);
  }
  for (const card of near) paint(card, span);
  setTimeout(() => {
    if (chosen.get(query) === (span ?? undefined)) for (const card of far) paint(card, span);
  });
  const { order } = control(query);
  const by = order.querySelector('[value="part"]');
  if (span && !by) order.append(make("option", { value: "part" }, "by score of the chosen"));
  const isBySpan = order.value === "part";
  if (!span && by) {
    by.remove();
    if (isBySpan) order.value = "place";
  }
  if (isBySpan) arrange(query);
  const answer = span && all("[data-part]", query).filter((part) => part.ariaPressed === "true");
  say(query, span ? `Hits show what raises or lowers “${answer.map(textOf).join("").trim()}” alone.` : "");
}
function paint(card, span) {
  const tokens = split(card);
  card.querySelector(":scope > .head > .part-score")?.remove();
  if (!span) {
    for (const token of tokens) {
      const here = token.classList.contains("here");
      token.className = token.dataset.was ?? "";
      token.classList.toggle("here", here);
      token.title = token.dataset.said ?? "";
    }
    return;
  }
  const { steps, step, width } = paneOf(card);
  const sums = tokens.map((_, at) => {
    let sum = 0;
    for (let part = span[0]; part <= span[1]; part += 1) sum += steps[part * width + at];
    return sum * step;
  });
  const largest = Math.max(...sums.map(Math.abs));
  tokens.forEach((token, at) => colour(token, sums[at], largest));
  const score = partScore(card);
  const kind = `part-score ${score < 0 ? "lowers" : "raises"}`;
  card.querySelector(":scope > .head > .score").after(
    make("span", { class: kind }, `of the chosen ${signed(score)}`),
  );
}
const textOf = (part) => part.textContent;
function partScore(card) {
  const span = chosen.get(card.closest(".query"));
  if (!span || card.dataset.sums === undefined) return 0;
  return paneOf(card).sums.slice(span[0], span[1] + 1).reduce((sum, one) => sum + one, 0);
}
function say(query, text) {
  query.querySelector(".moved").textContent = text;
}
// A token of a hit colours the answer by what it moved.
function chooseToken(card, token) {
  const query = card.closest(".query");
  chooseSpan(query, null);
  const at = split(card).indexOf(token);
  const { steps, step, width } = paneOf(card);
  const parts = all("[data-part]", query);
  const moved = parts.map((part) => steps[Number(part.dataset.part) * width + at] * step);
  const largest = Math.max(...moved.map(Math.abs));
  parts.forEach((part, place) => {
    part.dataset.was ??= part.className;
    part.dataset.said ??= part.title;
    colour(part, moved[place], largest);
  });
  token.classList.add("here");
  const most = moved.map(Math.abs).indexOf(largest);
  const what = `“${token.textContent.trim()}” of hit ${card.querySelector(".rank").textContent}`;
  say(
    query,
    largest
      ? `The answer shows what ${what} moved; most of all “${parts[most].textContent.trim()}”, ${signed(moved[most])}.`
      : `${what} moved nothing that can be seen.`,
  );
}
function clearToken(query) {
  for (const token of all(".here", query)) token.classList.remove("here");
  for (const part of all("[data-part][data-was]", query)) {
    part.className = part.dataset.was;
    part.title = part.dataset.said;
  }
}
// The number of a token, for who has no pointer to rest on it.
function tell(card, token) {
  const line =
    card.querySelector(":scope > .number") ?? make("p", { class: "number", role: "status" });
  if (!line.parentElement) card.querySelector(":scope > .foot").before(line);
  line.textContent = `“${token.textContent.trim()}” ${token.title || "less than an eighth of the strongest token, or nothing"}`;
}
function onToken(card, token) {
  tell(card, token);
  if (card.dataset.pairs !== undefined && token.parentElement.dataset.sizes) chooseToken(card, token);
}
document.addEventListener("click", (event) => {
  const text = event.target.closest?.(".card .text");
  const card = text?.closest(".card");
  if (!card || String(getSelection())) return;
  split(card);
  const token = document.elementFromPoint(event.clientX, event.clientY)?.closest(".card .text b");
  if (token) onToken(card, token);
});

for (const query of queries) {
  const parts = all("[data-part]", query);
  if (!parts.length || !paired(query).length) continue;
  let start = null;
  query.querySelector(".question").append(
    make("p", { class: "moved", role: "status" },
      "Choose a part of the answer, or a token of a hit, to see what goes with it."),
  );
  const span = (a, b) => [Math.min(a, b), Math.max(a, b)];
  const press = (part, extend) => {
    const at = Number(part.dataset.part);
    const now = chosen.get(query);
    if (extend && now) return chooseSpan(query, span(start ?? now[0], at));
    start = at;
    chooseSpan(query, now && now[0] === at && now[1] === at ? null : [at, at]);
  };
  parts.forEach((part, place) => {
    part.setAttribute("role", "button");
    part.setAttribute("aria-pressed", "false");
    part.tabIndex = place ? -1 : 0;
    part.addEventListener("pointerdown", (event) => press(part, event.shiftKey));
    part.addEventListener("pointerenter", (event) => {
      const at = Number(part.dataset.part);
      if (event.buttons === 1 && start !== null && chosen.get(query)) {
        chooseSpan(query, span(start, at));
      }
    });
    part.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step && parts[place + step]) {
        part.tabIndex = -1;
        parts[place + step].tabIndex = 0;
        parts[place + step].focus();
        if (event.shiftKey) press(parts[place + step], true);
      } else if (event.key === "Enter" || event.key === " ") press(part, event.shiftKey);
      else return;
      event.preventDefault();
    });
  });
}
