// Keys: what has data-key="x" is pressed by the key x. Without this file everything works by mouse.
"use strict";

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.ctrlKey && event.target.form) { event.target.form.requestSubmit(); return; }
  const typing = event.target.matches("textarea, input:not([type=radio]):not([type=checkbox])");
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (typing && event.key !== "Escape") return;
  if (typing) { event.target.blur(); return; }
  const found = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!found) return;
  event.preventDefault();
  if (found.matches("textarea")) { found.focus(); return; }
  found.click();
  if (found.matches("input")) found.focus();
});

// Pressed twice, a form is sent once; the server would not count it twice either.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "yes";
});

// Of a page that the back button took from memory, the newest is asked for.
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
