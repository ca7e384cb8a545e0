// The page reads well without this: it adds a filter, one switch for all queries, and links that unfold.
const queries = [...document.querySelectorAll("details.query")];
const links = [...document.querySelectorAll("nav li")];
const filter = document.getElementById("filter");
const toggle = document.getElementById("toggle");

function unfoldTarget() {
  const target = queries.find((query) => `#${query.id}` === location.hash);
  if (target) {
    target.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", unfoldTarget);
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", () => setTimeout(unfoldTarget));
}
unfoldTarget();

// A method chosen for one query is chosen for all of them.
document.addEventListener("change", (event) => {
  if (!event.target.matches(".pick")) return;
  const place = event.target.getBoundingClientRect().top;
  for (const pick of document.querySelectorAll(".pick")) {
    if (pick.value === event.target.value) pick.checked = true;
  }
  scrollBy(0, event.target.getBoundingClientRect().top - place);
});

if (toggle) {
  const folded = () => queries.some((query) => !query.open && !query.hidden);
  const rename = () => (toggle.textContent = folded() ? "Open all" : "Close all");
  toggle.parentElement.hidden = false;
  toggle.addEventListener("click", () => {
    const open = folded();
    for (const query of queries) query.open = open;
  });
  for (const query of queries) query.addEventListener("toggle", rename);
  rename();
}
if (filter) {
  const words = links.map((link) => link.textContent.toLowerCase());
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    links.forEach((link, index) => {
      link.hidden = queries[index].hidden = !words[index].includes(wanted);
    });
  });
}
addEventListener("beforeprint", () => queries.forEach((query) => (query.open = true)));
