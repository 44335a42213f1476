// Loads pieces of data as they are needed. A page opened from disk may not fetch files, but it may add scripts:
// each piece is a script that calls aligncut.receive(name, content).
"use strict";

const aligncut = {};

(() => {
  const BYTES_KEPT = 120e6;
  const PICTURES_KEPT = 600;
  const received = new Map();
  const kept = new Map(); // name -> {value, bytes}, the least recently used first
  const loading = new Map();
  const pictures = new Map();
  let bytes = 0;

  aligncut.receive = (name, content) => {
    received.set(name, content);
    if (name === "main") aligncut.start(content);
  };

  const keep = (name, value, size) => {
    kept.set(name, { value, bytes: size });
    bytes += size;
    for (const [old, entry] of kept) {
      if (bytes <= BYTES_KEPT || old === name) break;
      kept.delete(old);
      bytes -= entry.bytes;
    }
  };

  // Return a promise of a decoded piece; decode(content) gives {value, bytes}.
  aligncut.load = (name, decode) => {
    const known = kept.get(name);
    if (known) {
      kept.delete(name);
      kept.set(name, known);
      return Promise.resolve(known.value);
    }
    if (loading.has(name)) return loading.get(name);
    const promise = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `data/${name}.js`;
      script.onload = () => {
        script.remove();
        loading.delete(name);
        if (!received.has(name)) return reject(new Error(`data/${name}.js is damaged`));
        const decoded = decode(received.get(name));
        received.delete(name);
        keep(name, decoded.value, decoded.bytes);
        resolve(decoded.value);
      };
      script.onerror = () => {
        script.remove();
        loading.delete(name);
        reject(new Error(`data/${name}.js cannot be loaded`));
      };
      document.head.append(script);
    });
    loading.set(name, promise);
    return promise;
  };

  // Return a piece that is here already, or undefined.
  aligncut.peek = (name) => kept.get(name)?.value;

  // Return a promise of a picture.
  aligncut.picture = (path) => {
    if (pictures.has(path)) {
      const known = pictures.get(path);
      pictures.delete(path);
      pictures.set(path, known);
      return known;
    }
    const promise = new Promise((resolve, reject) => {
      const picture = new Image();
      picture.onload = () => resolve(picture);
      picture.onerror = () => {
        pictures.delete(path);
        reject(new Error(`${path} cannot be loaded`));
      };
      picture.src = path;
    });
    pictures.set(path, promise);
    if (pictures.size > PICTURES_KEPT) pictures.delete(pictures.keys().next().value);
    return promise;
  };

  aligncut.bytesOf = (base64) => {
    const text = atob(base64);
    const out = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
    return out;
  };

  // Decode 8-bit eigenvector rows, with the length of every row.
  aligncut.decodeRows = (width) => (content) => {
    const rows = new Int8Array(aligncut.bytesOf(content).buffer);
    const lengths = new Float32Array(rows.length / width);
    for (let i = 0, at = 0; i < lengths.length; i++) {
      let sum = 0;
      for (let c = 0; c < width; c++, at++) sum += rows[at] * rows[at];
      lengths[i] = Math.sqrt(sum);
    }
    return { value: { rows, lengths }, bytes: rows.length + 4 * lengths.length };
  };

  aligncut.decodePlaces = (content) => {
    const value = new Uint16Array(aligncut.bytesOf(content).buffer);
    return { value, bytes: 2 * value.length };
  };

  // Cosine similarity of one row to every row of a piece; 0 where either has no length.
  aligncut.compare = (row, piece) => {
    const width = row.length;
    const out = new Float32Array(piece.lengths.length);
    let own = 0;
    for (let c = 0; c < width; c++) own += row[c] * row[c];
    own = Math.sqrt(own);
    if (own === 0) return out;
    const { rows, lengths } = piece;
    for (let i = 0, at = 0; i < out.length; i++) {
      let sum = 0;
      for (let c = 0; c < width; c++, at++) sum += row[c] * rows[at];
      if (lengths[i] > 0) out[i] = sum / (own * lengths[i]);
    }
    return out;
  };
})();
