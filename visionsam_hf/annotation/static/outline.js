// A mask's outline along its pixels' edges, as one Path2D in image pixels: crisp at any zoom.

/** mask: Uint8Array (height * width), non-zero inside. */
export function outline(mask, width, height) {
  const path = new Path2D();
  // Horizontal edges between rows y-1 and y, joined into runs; then vertical ones.
  for (let y = 0; y <= height; y++) {
    let start = -1;
    for (let x = 0; x <= width; x++) {
      const edge = x < width && inside(mask, x, y - 1, width, height) !== inside(mask, x, y, width, height);
      if (edge && start < 0) start = x;
      if (!edge && start >= 0) {
        path.moveTo(start, y);
        path.lineTo(x, y);
        start = -1;
      }
    }
  }
  for (let x = 0; x <= width; x++) {
    let start = -1;
    for (let y = 0; y <= height; y++) {
      const edge = y < height && inside(mask, x - 1, y, width, height) !== inside(mask, x, y, width, height);
      if (edge && start < 0) start = y;
      if (!edge && start >= 0) {
        path.moveTo(x, start);
        path.lineTo(x, y);
        start = -1;
      }
    }
  }
  return path;
}

function inside(mask, x, y, width, height) {
  return x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x] > 0;
}

/** A canvas of the masks' size, each pixel coloured by colour(index): [r, g, b, a] or null. */
export function paint(width, height, colour) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const value = colour(i);
    if (value) pixels.data.set(value, i * 4);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}
