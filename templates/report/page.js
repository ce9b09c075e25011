"use strict";
// Without it, a cell leads to its words in the list below; with it, they come up over the page.
const dialog = document.getElementById("reason");
const content = dialog.querySelector("div");
for (const cell of document.querySelectorAll("a.cell")) {
  cell.setAttribute("aria-haspopup", "dialog");
  cell.addEventListener("click", (event) => {
    event.preventDefault();
    const words = document.querySelector(cell.hash).cloneNode(true);
    words.removeAttribute("id");
    words.querySelector("h3").id = "reason-title";
    content.replaceChildren(words);
    dialog.showModal();
    content.scrollTop = 0;
  });
}
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
// On paper nothing can be opened, and a change of hundreds of lines is not worth it.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll(".history details")) {
    details.open = details.querySelectorAll("li").length <= 10;
  }
});
