// Pictures: numbers of the mark that the pointer or focus is on; arrows go from mark to mark.
const markOf = (event) => event.target.closest?.(".drawing .mark");
function readOut(mark, text) {
  mark.closest(".picture").querySelector(".read-out").textContent = text;
}
for (const kind of ["focusin", "pointerover"]) {
  addEventListener(kind, (event) => {
    const mark = markOf(event);
    if (mark) readOut(mark, mark.querySelector("title").textContent);
  });
}
// A bar of a group chooses the hits of that group, and chosen again lets go of them.
function chooseGroup(mark) {
  const { group, value } = mark.dataset;
  if (value === undefined) return;
  const query = mark.closest(".query");
  const { where, pairs } = control(query);
  const place = pairs.findIndex(([key, found]) => key === group && found === value);
  if (place < 0) return readOut(mark, "All of the hits shown are of this group, or none.");
  where.value = where.value === `${place}` ? "" : `${place}`;
  choose(query);
}
addEventListener("click", (event) => markOf(event) && chooseGroup(markOf(event)));
addEventListener("keydown", (event) => {
  const mark = markOf(event);
  if (!mark) return;
  if (event.key === "Enter") chooseGroup(mark);
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!step) return;
  const marks = all(".mark", mark.closest(".drawing"));
  const next = marks[marks.indexOf(mark) + step];
  if (next) {
    mark.removeAttribute("tabindex");
    next.setAttribute("tabindex", "0");
    next.focus();
  }
  event.preventDefault();
});
