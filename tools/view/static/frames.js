// Frames of a sample on a canvas, with what lies over them. Everything is asked for by number.

const FRAMES_A_SECOND = 8;

export class Frames {
  constructor(canvas, sample, changed) {
    this.canvas = canvas;
    this.sample = sample;
    this.changed = changed;
    this.place = 0;
    this.timer = 0;
    this.pictures = new Map();
    this.hidden = null;
    this.objects = null;
  }

  get playing() { return this.timer !== 0; }

  // The picture at an address of this server, once it is there; null where it is not.
  picture(address) {
    if (!this.pictures.has(address)) {
      this.pictures.set(address, new Promise((done) => {
        const image = new Image();
        image.onload = () => done(image);
        image.onerror = () => done(null);
        image.src = address;
      }));
    }
    return this.pictures.get(address);
  }

  async show(place) {
    const count = this.sample.num_frames;
    this.place = ((place % count) + count) % count;
    const wanted = this.place;
    const frame = await this.picture(`/frame/${this.sample.number}/${wanted}`);
    const masks = this.objects ? await this.picture(`/masks/${this.sample.number}/${wanted}`) : null;
    if (wanted !== this.place) return;
    this.paint(frame, masks);
    this.changed();
    this.picture(`/frame/${this.sample.number}/${(wanted + 1) % count}`);
  }

  paint(frame, masks) {
    const pen = this.canvas.getContext("2d");
    if (!frame) {
      pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
      this.canvas.dataset.state = "missing";
      return;
    }
    const scale = Math.max(1, Math.ceil(480 / frame.naturalWidth));
    const [width, height] = [frame.naturalWidth * scale, frame.naturalHeight * scale];
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    pen.imageSmoothingEnabled = false;
    pen.drawImage(frame, 0, 0, width, height);
    if (masks) pen.drawImage(masks, 0, 0, width, height);
    if (this.objects) this.paintBoxes(pen, width, height);
    if (this.hidden) this.paintHidden(pen, width, height);
    this.canvas.dataset.state = `frame ${this.place}`;
  }

  paintBoxes(pen, width, height) {
    pen.lineWidth = Math.max(2, width / 240);
    pen.font = `${Math.round(width / 32)}px sans-serif`;
    for (const one of this.objects[this.place] ?? []) {
      const [left, top, right, bottom] = one.box;
      pen.strokeStyle = pen.fillStyle = one.colour;
      pen.strokeRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
      pen.fillText(String(one.id), left * width + pen.lineWidth * 2, top * height + width / 28);
    }
  }

  paintHidden(pen, width, height) {
    const { rows, columns, hidden } = this.hidden;
    const time = Math.floor((this.place * hidden.length) / this.sample.num_frames);
    const [wide, high] = [width / columns, height / rows];
    pen.fillStyle = "#808080";
    for (let patch = 0; patch < rows * columns; patch++) {
      if (hidden[time][patch] !== "1") continue;
      const [row, column] = [Math.floor(patch / columns), patch % columns];
      pen.fillRect(column * wide, row * high, wide, high);
    }
  }

  play() {
    if (this.playing || this.sample.num_frames < 2) return;
    this.timer = setInterval(() => this.show(this.place + 1), 1000 / FRAMES_A_SECOND);
    this.changed();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
    this.changed();
  }
}
