// Talking to the server: JSON, pictures, and telling "log in" from "no network" from "no".

export class LoggedOut extends Error {}
export class Offline extends Error {}

export async function get(path) {
  return (await reach(path, {})).json();
}

export async function post(path, body = {}) {
  return (await reach(path, sending(body))).json();
}

/** The picture that a request with a body is answered with. */
export async function postPicture(path, body) {
  return bitmapOf(await reach(path, sending(body)));
}

function sending(body) {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

async function reach(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, credentials: "same-origin" });
  } catch {
    throw new Offline("no connection");
  }
  if (response.status === 401) throw new LoggedOut("log in");
  if (response.status >= 500) throw new Offline(`the server answers ${response.status}`);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail || `status ${response.status}`);
  return response;
}

/** A picture as ImageBitmap, its colours untouched. */
export async function picture(path) {
  return bitmapOf(await reach(path, {}));
}

async function bitmapOf(response) {
  return createImageBitmap(await response.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

/** The three channels of a picture as three Uint8Array, row by row. */
export function channels(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const data = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const planes = [0, 1, 2].map(() => new Uint8Array(bitmap.width * bitmap.height));
  for (let i = 0, j = 0; i < data.length; i += 4, j++) {
    for (let c = 0; c < 3; c++) planes[c][j] = data[i + c] > 127 ? 1 : 0;
  }
  return planes;
}
