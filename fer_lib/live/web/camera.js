// The browser's camera: pictures are made small, stamped and handed to `send`; two at most wait for an answer, so a
// slow server gets fewer pictures and never a queue of old ones.

const WIDTH = 640, QUALITY = 0.85, SECONDS_APART = 0.028, IN_FLIGHT = 2;

const WHY = {
  NotAllowedError: "The browser may not use the camera. Allow it in the address bar, then press Start camera.",
  NotFoundError: "There is no camera here. Plug one in and press Start camera, or play a file: fer live --web --source FILE.",
  NotReadableError: "The camera is held by another program. Close that one, then press Start camera.",
  OverconstrainedError: "This camera cannot be used. Choose another one.",
};

export class Camera {
  // send(bytes) -> whether it went; trouble(text) when the camera is lost
  constructor(video, send, trouble) {
    Object.assign(this, { video, send, trouble, waiting: 0, size: null, stream: null, last: 0 });
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
  }

  get running() {
    return this.stream !== null;
  }

  // Rejects with a text that a person can act on.
  async start(device) {
    this.stop();
    if (!navigator.mediaDevices) {
      throw new Error("The browser gives its camera to this machine's own addresses only: open the page as "
        + "http://localhost:PORT (from elsewhere through ssh -L), or over https.");
    }
    const wanted = { width: { ideal: WIDTH }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
    if (device) wanted.deviceId = { exact: device };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    } catch (error) {
      throw new Error(WHY[error.name] || `The camera does not start: ${error.message}`);
    }
    const track = this.stream.getVideoTracks()[0];
    track.addEventListener("ended", () => {
      this.stop();
      this.trouble("The camera was lost. Plug it in again and press Start camera.");
    });
    this.video.srcObject = this.stream;
    await this.video.play();
    this.waiting = 0;
    this.next(this.stream);
    return track.getSettings().deviceId;
  }

  stop() {
    if (!this.stream) return;
    for (const track of this.stream.getTracks()) track.stop();
    this.stream = this.video.srcObject = null;
  }

  answered() {
    this.waiting = Math.max(0, this.waiting - 1);
  }

  // A new connection knows nothing of what the old one waited for; `size` of the session's pictures, null before any.
  connected(size) {
    this.waiting = 0;
    this.size = size || this.size;
  }

  next(stream) {
    const grab = () => {
      if (this.stream !== stream) return;
      this.grab();
      this.next(stream);
    };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(grab);
    else setTimeout(grab, 33);
  }

  grab() {
    const at = (performance.timeOrigin + performance.now()) / 1000;
    const { videoWidth: width, videoHeight: height } = this.video;
    if (this.waiting >= IN_FLIGHT || !width || at - this.last < SECONDS_APART) return;
    this.last = at;
    const scale = Math.min(1, WIDTH / width);
    this.size = this.size || [Math.round(width * scale), Math.round(height * scale)];
    const [w, h] = this.size;
    if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
    // a session has one size: another camera's picture is fitted into it
    const fit = Math.min(w / width, h / height);
    this.context.fillRect(0, 0, w, h);
    this.context.drawImage(this.video, (w - width * fit) / 2, (h - height * fit) / 2, width * fit, height * fit);
    this.waiting += 1;
    this.canvas.toBlob((blob) => {
      const stamp = new DataView(new ArrayBuffer(8));
      stamp.setFloat64(0, at, true);
      if (!blob || !this.send(new Blob([stamp.buffer, blob]))) this.answered();
    }, "image/jpeg", QUALITY);
  }
}

// [{id, name}] of the cameras there are; names are known once one was allowed
export async function cameras() {
  const found = await navigator.mediaDevices.enumerateDevices();
  return found.filter((d) => d.kind === "videoinput")
    .map((d, i) => ({ id: d.deviceId, name: d.label || `Camera ${i + 1}` }));
}
