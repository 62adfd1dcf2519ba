const show = (dialog) => {
  const pictures = document.getElementById("pictures").textContent.split("\n");
  dialog.querySelectorAll("[data-picture]").forEach((each) => { each.src = pictures[each.dataset.picture]; });
  dialog.showModal();
};
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-cell]");
  if (opener) show(document.getElementById(opener.dataset.cell));
  const dialog = event.target.closest("dialog");
  if (dialog && (event.target === dialog || event.target.closest(".close"))) dialog.close();
});
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
