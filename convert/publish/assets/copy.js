// Fills in the addresses of this site, and adds a button to copy each snippet.
"use strict";

if (location.protocol !== "file:") {
  for (const place of document.querySelectorAll("[data-address]")) {
    place.textContent = new URL(place.dataset.address, location.href).href.replace(/\/$/, "");
  }
}

async function copy(text, source) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without HTTPS there is no clipboard to write to, but the selection can be copied.
    getSelection().selectAllChildren(source);
    if (!document.execCommand("copy")) throw new Error("the browser does not allow it");
    getSelection().removeAllRanges();
  }
}

for (const source of document.querySelectorAll("pre, .copied")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    try {
      await copy(source.textContent.trimEnd(), source);
      button.textContent = "Copied";
    } catch {
      // The text stays selected: the keyboard copies it.
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  if (source.matches("pre")) {
    const frame = document.createElement("div");
    frame.className = "snippet";
    source.replaceWith(frame);
    frame.append(source, button);
  } else {
    source.after(" ", button);
  }
}
