// Pictures: the numbers of the mark that the pointer or the focus is on; arrows go from mark to mark.
const marked = (event) => event.target.closest?.(".drawing .mark");

function readOut(event) {
  const mark = marked(event);
  if (!mark) return;
  const line = mark.closest(".picture").querySelector(".read-out");
  line.textContent = mark.querySelector("title").textContent;
}
addEventListener("focusin", readOut);
addEventListener("pointerover", readOut);

addEventListener("keydown", (event) => {
  const mark = marked(event);
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!mark || !step) return;
  const marks = [...mark.closest(".drawing").querySelectorAll(".mark")];
  const next = marks[marks.indexOf(mark) + step];
  if (next) {
    mark.removeAttribute("tabindex");
    next.setAttribute("tabindex", "0");
    next.focus();
  }
  event.preventDefault();
});

// A bar of a group chooses the hits of that group, and chosen again lets go of them.
function chooseGroup(event) {
  const mark = marked(event);
  if (!mark?.dataset.value || (event.key && event.key !== "Enter")) return;
  const query = mark.closest(".query");
  const { where, pairs } = control(query);
  const { group, value } = mark.dataset;
  const place = pairs.findIndex(([key, found]) => key === group && found === value);
  if (place < 0) {
    const line = mark.closest(".picture").querySelector(".read-out");
    line.textContent = "There is no choice to make: the hits shown are all, or none, of this group.";
    return;
  }
  where.value = where.value === String(place) ? "" : String(place);
  choose(query);
}
addEventListener("click", chooseGroup);
addEventListener("keydown", chooseGroup);
