// Classifies a photograph with the module's own LiteRT model, in this browser.

import { centralPart, resized, toBytes } from "./crop.js";

const SHOWN = 5;
const section = document.getElementById("try");
const status = section.querySelector("[role=status]");
const result = section.querySelector(".result");
const list = result.querySelector("ol");
const seen = result.querySelector("canvas");
const drop = section.querySelector(".drop");

let loading;
let turn = 0;

/** The runtime, the compiled model and what the page knows of it; loaded once. */
async function load() {
  const [description, litert] = await Promise.all([
    fetch(section.dataset.model).then((answer) => {
      if (!answer.ok) throw new Error(`${section.dataset.model}: ${answer.status}`);
      return answer.json();
    }),
    import("./litert/core/index.js"),
  ]);
  // What it prints are notes, though most go to standard error.
  globalThis.Module = { print: console.debug, printErr: console.debug };
  await litert.loadLiteRt(new URL("./litert/wasm/", import.meta.url).href);
  const address = new URL(description.file, new URL(section.dataset.model, location.href));
  const model = await litert.loadAndCompile(address.href, { accelerator: "wasm" });
  const loaded = { description, litert, model };
  // The first run also prepares the kernels; the time shown is that of every later one.
  await run(loaded, new Float32Array(3 * description.image_size ** 2));
  return loaded;
}

/** The RGBA pixels of a file's central part, as stored: no colour is managed. */
async function central(file) {
  const bitmap = await createImageBitmap(file, {
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const [down, across] = [centralPart(bitmap.height), centralPart(bitmap.width)];
  const canvas = new OffscreenCanvas(across.length, down.length);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, -across.start, -down.start);
  bitmap.close();
  return context.getImageData(0, 0, across.length, down.length);
}

/** The outputs of the model for `[size, size, 3]` in [0, 1], and the milliseconds of its run. */
async function run({ description, litert, model }, image) {
  const { image_size: size, input, output } = description;
  const values = input.dtype === "uint8" ? toBytes(image) : image;
  const start = performance.now();
  const tensor = new litert.Tensor(values, [1, size, size, 3]);
  const [out] = await model.run(tensor);
  const raw = await out.data();
  const milliseconds = performance.now() - start;
  const step = output.scale || 1;
  const logits = Float64Array.from(raw, (value) => step * (value - output.zero_point));
  tensor.delete();
  out.delete();
  return { logits, milliseconds };
}

/** The most probable classes; of equal ones the first. */
function best(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const weights = logits.map((value) => Math.exp(value - largest));
  const sum = weights.reduce((a, b) => a + b);
  return [...logits.keys()]
    .sort((a, b) => logits[b] - logits[a] || a - b)
    .slice(0, SHOWN)
    .map((index) => ({ index, probability: weights[index] / sum }));
}

function show({ description }, image, { logits, milliseconds }) {
  const { image_size: size, classes } = description;
  const items = best(logits).map(({ index, probability }) => {
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.textContent = classes?.[index] ?? `class ${index}`;
    const bar = document.createElement("meter");
    bar.value = probability;
    const percent = document.createElement("span");
    percent.className = "number";
    percent.textContent = `${(100 * probability).toFixed(1)} %`;
    bar.setAttribute("aria-label", `${name.textContent}: ${percent.textContent}`);
    item.dataset.index = index;
    item.append(name, percent, bar);
    return item;
  });
  list.replaceChildren(...items);
  seen.width = seen.height = size;
  const pixels = new ImageData(size, size);
  for (let place = 0; place < size * size; place += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      pixels.data[4 * place + channel] = 255 * image[3 * place + channel];
    }
    pixels.data[4 * place + 3] = 255;
  }
  seen.getContext("2d").putImageData(pixels, 0, 0);
  result.hidden = false;
  status.textContent = `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms for one image in this browser.`;
}

async function classify(file) {
  turn += 1;
  const mine = turn;
  let pixels;
  try {
    pixels = await central(file);
  } catch {
    status.textContent = `${file.name} is not an image that this browser can read.`;
    return;
  }
  if (!loading) {
    status.textContent = "Loading the runtime and the model …";
    loading = load();
  }
  try {
    const ready = await loading;
    const image = resized(pixels.data, pixels.height, pixels.width, ready.description.image_size);
    const answer = await run(ready, image);
    // Another photograph may have come meanwhile.
    if (mine === turn) show(ready, image, answer);
  } catch (error) {
    loading = undefined;
    status.textContent = `The model could not be run: ${error.message ?? error}`;
  }
}

for (const input of section.querySelectorAll("input[type=file]")) {
  input.addEventListener("change", () => {
    if (input.files.length) classify(input.files[0]);
    // So that the same file can be chosen again.
    input.value = "";
  });
}
for (const name of ["dragenter", "dragover"]) {
  section.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) {
  section.addEventListener(name, () => drop.classList.remove("over"));
}
section.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) classify(file);
});
section.hidden = false;
