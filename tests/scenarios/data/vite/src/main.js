import message from "./message.js";

const parts = import.meta.glob("./parts/*.js", { eager: true });
document.title = `${message} (${Object.keys(parts).length})`;
