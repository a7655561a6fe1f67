// Elements and numbers as text, for the scripts of pages.
const make = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};
const digits = (x) => {
  if (x === null) return "\u2013";
  const size = Math.abs(x);
  const text = size === 0 ? "0" : size >= 1e4 || size < 1e-3 ? x.toExponential(1) : x.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
  return text.replace("-", "\u2212");
};
