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
