// The evaluation crop of mobilenets.images in the same arithmetic: Slim's central crop and the
// bilinear resize of TensorFlow 1, which puts a pixel's centre at its corner and does not average.

const single = Math.fround;

/** Where the central part of a side begins, and its length, in pixels. */
export function centralPart(length, fraction = 0.875) {
  const start = Math.trunc((length - length * fraction) / 2);
  return { start, length: length - 2 * start };
}

/** For each place of the result: the two pixels between which it lies, and how far. */
function places(length, size) {
  const scale = single(length / size);
  return Array.from({ length: size }, (_, place) => {
    const at = single(place * scale);
    const first = Math.floor(at);
    return { first, second: Math.min(first + 1, length - 1), weight: single(at - first) };
  });
}

/**
 * Resizes to a square.
 *
 * @param {Uint8ClampedArray} pixels RGBA, row by row, as a canvas gives them.
 * @param {number} height of the pixels.
 * @param {number} width of the pixels.
 * @param {number} size of the result.
 * @returns {Float32Array} `[size, size, 3]`, RGB in [0, 1].
 */
export function resized(pixels, height, width, size) {
  const unit = single(1 / 255);
  const result = new Float32Array(size * size * 3);
  const [rows, columns] = [places(height, size), places(width, size)];
  let next = 0;
  for (const row of rows) {
    for (const column of columns) {
      for (let channel = 0; channel < 3; channel += 1) {
        const at = (y, x) => single(pixels[4 * (y * width + x) + channel] * unit);
        const between = (a, b, weight) => single(a + single(single(b - a) * weight));
        const top = between(at(row.first, column.first), at(row.first, column.second), column.weight);
        const bottom = between(
          at(row.second, column.first),
          at(row.second, column.second),
          column.weight,
        );
        result[next] = between(top, bottom, row.weight);
        next += 1;
      }
    }
  }
  return result;
}

/** [0, 1] to the 8-bit integers of a uint8 model; halves go to the even one, as in NumPy. */
export function toBytes(values) {
  return Uint8Array.from(values, (value) => {
    const exact = single(value * 255);
    const below = Math.floor(exact);
    return exact - below === 0.5 ? below + (below % 2) : Math.round(exact);
  });
}
