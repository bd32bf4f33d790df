// The levels of a heat map in OME-TIFF, by geotiff.js, which viewers in browsers read it with: node read_tiff.mjs FILE
import { fromFile } from "geotiff";

const tiff = await fromFile(process.argv[2]);
const first = await tiff.getImage();
const description = await first.fileDirectory.loadValue("ImageDescription");
if (!description.includes('PhysicalSizeX="2')) throw new Error(description);
const [values] = await first.readRasters();
const at = (row, col) => values[row * first.getWidth() + col];
if (at(10, 20) !== at(14, 24) || !(at(10, 20) > at(9, 20)) || at(15, 24) !== at(0, 0)) throw new Error("another place");
console.log(`${first.getHeight()} x ${first.getWidth()}, ${at(0, 0)} to ${at(10, 20)}, ${await tiff.getImageCount()} image`);
