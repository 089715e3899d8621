"use strict";
(() => {
  const seconds = document.getElementById("written")?.dataset.reload;
  if (seconds) setTimeout(() => location.reload(), 1000 * seconds);

  // The filter is kept behind the # of the address, so that it outlives loading the page again.
  const form = document.getElementById("filter");
  if (!form) return;
  const fields = [...form.elements].filter((field) => field.name);
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const field of fields) {
    field.value = kept.get(field.name) ?? "";
    if (field.selectedIndex === -1) field.value = ""; // a view that this page no longer has
  }

  const apply = () => {
    const [view, from, to, conflict] = ["view", "from", "to", "conflict"].map((name) => form.elements[name].value);
    const isWanted = (row) => {
      const score = row.dataset.score;
      if (view && row.dataset.view !== view) return false;
      if ((from || to) && score === undefined) return false;
      return (!from || Number(score) >= Number(from)) && (!to || Number(score) <= Number(to));
    };
    let [answers, allAnswers, questions] = [0, 0, 0];
    const cards = document.querySelectorAll("article");
    for (const card of cards) {
      const isCardWanted = !conflict || card.dataset.conflict === conflict;
      let rows = 0;
      for (const row of card.querySelectorAll(".responses tbody tr")) {
        row.hidden = !(isCardWanted && isWanted(row));
        rows += row.hidden ? 0 : 1;
        allAnswers += 1;
      }
      card.hidden = !rows;
      answers += rows;
      questions += rows ? 1 : 0;
    }
    form.querySelector("output").textContent =
      `${answers} of ${allAnswers} answers, ${questions} of ${cards.length} questions`;
  };
  form.addEventListener("input", () => {
    apply();
    const set = fields.filter((field) => field.value).map((field) => [field.name, field.value]);
    location.replace("#" + (new URLSearchParams(set).toString() || "all")); // "#" alone would go to the top
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
})();
