// Answers stay in the page's own fields until they are downloaded; nothing is kept elsewhere.
const items = [...document.querySelectorAll(".item")];
const rater = document.getElementById("rater");
const main = document.getElementById("main");
let changed = false;

const answer = (item, name) => {
  const field = `[name="${name}-${item.dataset.item}"]`;
  const found = item.querySelector(`${field}:checked`) ?? item.querySelector(`${field}[type="text"]`);
  return found ? found.value.trim() : "";
};
const answered = (item) => Boolean(answer(item, "about") && answer(item, "relates"));

function count() {
  for (const item of items) item.classList.toggle("answered", answered(item));
  const done = items.filter(answered).length;
  document.getElementById("progress").textContent = `${done} of ${items.length} answered`;
}
// What a spreadsheet would compute is text there.
const cell = (text) => `"${(/^[=+\-@\t\r\n]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;

function sheet() {
  const rows = [["export", "item", "rater", "about", "relates"]];
  for (const item of items) {
    const said = [answer(item, "about"), answer(item, "relates")];
    rows.push([main.dataset.export, item.dataset.item, rater.value.trim(), ...said]);
  }
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}
function download() {
  if (!rater.value.trim()) {
    rater.setAttribute("aria-invalid", "true");
    document.getElementById("progress").textContent = "Write your name first.";
    rater.focus();
    return;
  }
  rater.removeAttribute("aria-invalid");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([sheet()], { type: "text/csv" }));
  link.download = `answers-${rater.value.trim().replace(/[^\p{L}\p{N}]+/gu, "-")}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  changed = false;
}
function next() {
  const item = items.find((one) => !answered(one));
  if (!item) return;
  item.scrollIntoView();
  item.querySelector("input").focus({ preventScroll: true });
}
main.addEventListener("input", () => {
  changed = true;
  count();
});
document.getElementById("download").addEventListener("click", download);
document.getElementById("next").addEventListener("click", next);
addEventListener("beforeunload", (event) => {
  if (changed) event.preventDefault();
});
// A browser may have filled in again what was there before.
count();
