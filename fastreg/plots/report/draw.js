// What a plane shows, from its sprites: fixed, moved, before, field. Row k of a sprite is slice k.

const FIRE = ramp(["#000004", "#420a68", "#932667", "#dd513a", "#fca50a", "#fcffa4"]);
const VOLUME = ramp(["#9be1ff", "#1f77b4", "#16161c", "#b5462f", "#ffc48c"]);
const MESH = [236, 240, 244], FOLD = [57, 255, 20], EDGE = [255, 176, 0];

// 256 colours between the given ones, [3 * 256].
function ramp(stops) {
  const parts = stops.map(stop => [1, 3, 5].map(k => parseInt(stop.slice(k, k + 2), 16)));
  const colours = new Uint8ClampedArray(3 * 256);
  for (let k = 0; k < 256; k++) {
    const place = k / 255 * (parts.length - 1), low = Math.min(Math.floor(place), parts.length - 2);
    for (let c = 0; c < 3; c++) colours[3 * k + c] = parts[low][c] + (place - low) * (parts[low + 1][c] - parts[low][c]);
  }
  return colours;
}

function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// The sprites of a plane, decoded; `field` as bytes.
async function loadSprites(plane) {
  const found = {};
  await Promise.all(Object.entries(plane.sprites).map(async ([name, source]) => {
    const image = new Image();
    image.src = source;
    await image.decode();
    found[name] = image;
  }));
  if (found.field) {
    const context = newCanvas(found.field.width, found.field.height).getContext("2d", {willReadFrequently: true});
    context.drawImage(found.field, 0, 0);
    found.field = context.getImageData(0, 0, found.field.width, found.field.height).data;
  }
  return found;
}

// One slice of a sprite over the whole canvas, or over a part of it.
function putSlice(context, plane, image, k, [x, y, w, h] = [0, 0, context.canvas.width, context.canvas.height]) {
  const across = plane.width / context.canvas.width, down = plane.height / context.canvas.height;
  context.drawImage(image, x * across, k * plane.height + y * down, w * across, h * down, x, y, w, h);
}

const DRAW = {
  flicker(context, plane, sprites, k, how) {
    putSlice(context, plane, sprites[how.swapped ? "moved" : "fixed"], k);
  },

  checkerboard(context, plane, sprites, k, how) {
    putSlice(context, plane, sprites.fixed, k);
    const {width, height} = context.canvas, size = Math.max(width, height) / how.squares;
    for (let j = 0; j * size < height; j++) {
      for (let i = (j + (how.swapped ? 1 : 0)) % 2; i * size < width; i += 2) {
        const [x, y] = [i * size, j * size];
        putSlice(context, plane, sprites.moved, k, [x, y, Math.min(size, width - x), Math.min(size, height - y)]);
      }
    }
  },

  difference(context, plane, sprites, k, how) {
    putSlice(context, plane, sprites.fixed, k);
    context.globalCompositeOperation = "difference";
    putSlice(context, plane, sprites[how.swapped && sprites.before ? "before" : "moved"], k);
    context.globalCompositeOperation = "source-over";
    const {width, height} = context.canvas, pixels = context.getImageData(0, 0, width, height), data = pixels.data;
    for (let p = 0; p < data.length; p += 4) {
      const colour = 3 * Math.min(255, Math.round(1.4 * data[p]));
      for (let c = 0; c < 3; c++) data[p + c] = FIRE[colour + c];
    }
    context.putImageData(pixels, 0, 0);
  },

  edges(context, plane, sprites, k, how) {
    putSlice(context, plane, sprites.fixed, k);
    const edges = edgesOf(context);
    putSlice(context, plane, sprites[how.swapped && sprites.before ? "before" : "moved"], k);
    blend(context, (p, put) => { if (edges[p]) put(EDGE, edges[p]); });
  },

  deformation(context, plane, sprites, k, how) {
    putSlice(context, plane, sprites.moved, k);
    const {width, height} = context.canvas, field = fieldOf(plane, sprites.field, k, width, height);
    const mesh = how.mesh ? meshOf(plane, field, width, height, how) : null;
    blend(context, (p, put) => {
      const code = field.codes[p];
      if (how.jacobian) {
        const colour = 3 * Math.round(code);
        put([VOLUME[colour], VOLUME[colour + 1], VOLUME[colour + 2]], 0.12 + 0.5 * Math.min(1, Math.abs(code - 128) / 80));
      }
      if (mesh && mesh[p]) put(MESH, 0.7 * mesh[p]);
      if (field.folds[p]) put(FOLD, 0.9);
    });
  },
};

// Calls `at(p, put)` for every pixel; put(colour, alpha) lays a colour over what is there.
function blend(context, at) {
  const {width, height} = context.canvas, pixels = context.getImageData(0, 0, width, height), data = pixels.data;
  let q = 0;
  const put = (colour, alpha) => { for (let c = 0; c < 3; c++) data[q + c] += alpha * (colour[c] - data[q + c]); };
  for (let p = 0; p < width * height; p++, q += 4) at(p, put);
  context.putImageData(pixels, 0, 0);
}

// How strong an edge runs through each pixel: slopes (Sobel) that are the largest along their own direction.
function edgesOf(context) {
  const {width, height} = context.canvas, data = context.getImageData(0, 0, width, height).data;
  const size = width * height, right = new Float32Array(size), down = new Float32Array(size), slope = new Float32Array(size);
  const at = (x, y) => data[4 * (y * width + x)];
  for (let y = 2; y < height - 2; y++) {
    for (let x = 2; x < width - 2; x++) {
      const p = y * width + x;  // two pixels wide: sprites are shown enlarged
      right[p] = at(x + 2, y - 2) + 2 * at(x + 2, y) + at(x + 2, y + 2) - at(x - 2, y - 2) - 2 * at(x - 2, y) - at(x - 2, y + 2);
      down[p] = at(x - 2, y + 2) + 2 * at(x, y + 2) + at(x + 2, y + 2) - at(x - 2, y - 2) - 2 * at(x, y - 2) - at(x + 2, y - 2);
      slope[p] = Math.hypot(right[p], down[p]);
    }
  }
  const edges = new Float32Array(size);
  for (let y = 3; y < height - 3; y++) {
    for (let x = 3; x < width - 3; x++) {
      const p = y * width + x;
      if (slope[p] < 70) continue;
      const step = Math.round(right[p] / slope[p]) + width * Math.round(down[p] / slope[p]);
      if (slope[p] >= slope[p - step] && slope[p] > slope[p + step]) edges[p] = Math.min(1, slope[p] / 200);
    }
  }
  return edges;
}

// Displacement in mm and the code of the log Jacobian at every pixel, between the nodes of the field linearly.
function fieldOf(plane, bytes, k, width, height) {
  const [w, h, size] = [plane.field_width, plane.field_height, width * height];
  const field = {right: new Float32Array(size), down: new Float32Array(size), codes: new Float32Array(size), folds: new Uint8Array(size)};
  const node = (x, y) => 4 * ((k * h + y) * w + x);
  for (let y = 0, p = 0; y < height; y++) {
    const fy = Math.min(Math.max((y + 0.5) * h / height - 0.5, 0), h - 1), y0 = Math.min(Math.floor(fy), h - 2), b = fy - y0;
    for (let x = 0; x < width; x++, p++) {
      const fx = Math.min(Math.max((x + 0.5) * w / width - 0.5, 0), w - 1), x0 = Math.min(Math.floor(fx), w - 2), a = fx - x0;
      const corners = [node(x0, y0), node(x0 + 1, y0), node(x0, y0 + 1), node(x0 + 1, y0 + 1)];
      const weights = [(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b];
      for (let c = 0; c < 4; c++) {
        field.right[p] += weights[c] * (bytes[corners[c]] - 128);
        field.down[p] += weights[c] * (bytes[corners[c] + 1] - 128);
        field.codes[p] += weights[c] * (bytes[corners[c] + 2] || 1);
      }
      field.folds[p] = bytes[corners[Math.round(a) + 2 * Math.round(b)] + 2] === 0 ? 1 : 0;
    }
  }
  return field;
}

// The moving image's grid as it comes to lie on the moved image: where pixel + displacement crosses every how.grid mm.
function meshOf(plane, field, width, height, how) {
  const mm = plane.pixel_mm * plane.width / width, unit = how.spread_mm / 127, mesh = new Float32Array(width * height);
  const lines = [(x, p) => (x * mm + unit * field.right[p]) / how.grid_mm, (y, p) => (y * mm + unit * field.down[p]) / how.grid_mm];
  for (let y = 0, p = 0; y < height; y++) {
    for (let x = 0; x < width; x++, p++) {
      const dx = x + 1 < width ? 1 : -1, dy = (y + 1 < height ? 1 : -1);
      const here = [lines[0](x, p), lines[1](y, p)];
      const beside = [[lines[0](x + dx, p + dx), lines[0](x, p + dy * width)], [lines[1](y, p + dx), lines[1](y + dy, p + dy * width)]];
      for (let k = 0; k < 2; k++) {
        const slope = Math.hypot(beside[k][0] - here[k], beside[k][1] - here[k]) || 1e-6;
        const distance = Math.abs(here[k] - Math.round(here[k])) / slope;
        mesh[p] = Math.max(mesh[p], 1.2 - distance);
      }
      mesh[p] = Math.min(1, Math.max(0, mesh[p]));
    }
  }
  return mesh;
}
