// What is wrong with how a page looks: {overflows, faint}, a line for each element.
() => {
  const width = document.documentElement.clientWidth;

  // What sticks out of the page to the left or right, unless something around it scrolls by itself.
  const overflows = [];
  const whole = document.documentElement.scrollWidth;
  if (whole > width) overflows.push(`the page is ${whole} pixels wide in a window of ${width}`);
  for (const element of document.body.querySelectorAll("*")) {
    const box = element.getBoundingClientRect();
    if (!box.width || (box.right <= width + 1 && box.left >= -1)) continue;
    let around = element.parentElement;
    while (around && !["auto", "scroll"].includes(getComputedStyle(around).overflowX)) around = around.parentElement;
    if (!around) overflows.push(`${element.tagName} ${element.className} from ${box.left} to ${box.right}`);
  }

  // Letters that hardly differ from what is behind them: less than 4.5 to 1 (WCAG 2.2, 1.4.3).
  const parse = (text) => {
    const numbers = text.match(/[\d.]+/g).map(Number);
    const scale = text.startsWith("color(srgb") ? 255 : 1;
    return { rgb: numbers.slice(0, 3).map((value) => value * scale), opacity: numbers[3] ?? 1 };
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (![...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim())) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest("svg") ? style.fill : style.color);
    let paper = { rgb: [255, 255, 255], opacity: 1 };
    for (let around = element; around; around = around.parentElement) {
      const paint = parse(getComputedStyle(around).backgroundColor);
      if (paint.opacity > 0) {
        paper = paint;
        break;
      }
    }
    const [high, low] = [light(ink.rgb), light(paper.rgb)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) faint.push(`${element.tagName} "${element.textContent.trim().slice(0, 40)}" ${ratio.toFixed(2)} to 1`);
  }
  return { overflows, faint };
}
