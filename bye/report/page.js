document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-cell]");
  if (opener) document.getElementById(opener.dataset.cell).showModal();
  const dialog = event.target.closest("dialog");
  if (dialog && (event.target === dialog || event.target.closest(".close"))) dialog.close();
});
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
