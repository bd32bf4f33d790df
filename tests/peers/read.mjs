// The heat map and the labels of an OME-Zarr folder, by ome-zarr.js: node read.mjs FOLDER
import { FileSystemStore } from "@zarrita/storage";
import * as omezarr from "ome-zarr.js";
import * as zarr from "zarrita";

const root = process.argv[2];
for (const [name, sides] of [["", [1, 50, 75]], ["labels/classes", [400, 600]], ["labels/objects", [400, 600]]]) {
  const group = await zarr.open.v2(new FileSystemStore(`${root}/${name}`), { kind: "group" });
  const { arr, multiscale } = await omezarr.getMultiscaleWithArray(group, 0);
  if (arr.shape.join() !== sides.join()) throw new Error(`${name}: ${arr.shape}`);
  const values = (await zarr.get(arr)).data;
  const largest = values.reduce((most, value) => Math.max(most, value), 0);
  const unit = multiscale.axes.at(-1).unit;
  console.log(`${name || "heat map"} ${arr.shape.join(" x ")} ${arr.dtype}, largest ${largest}, ${unit}`);
  if (!(largest > 0) || unit !== "micrometer") throw new Error(name);
}
