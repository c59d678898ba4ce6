// What is wrong with an open page, each function as a list of sentences; evaluated in the page by checks.py.

function shown(element) {
  return element.checkVisibility({ visibilityProperty: true, opacityProperty: true, contentVisibilityAuto: true });
}

function* texts(root) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("title, style, script, desc, head") || !shown(parent)) continue;
    yield node;
  }
}

function extract(node) {
  const text = (node.data ?? node.textContent).trim();
  return JSON.stringify(text.length > 40 ? text.slice(0, 39) + "…" : text);
}

// -- layout ---------------------------------------------------------------------------------------------------------

function overflow() {
  const page = document.scrollingElement;
  const found = [];
  if (page.scrollWidth > page.clientWidth) {
    found.push(`the page is ${page.scrollWidth} wide in a window of ${page.clientWidth}`);
  }
  for (const node of texts(document.body)) {
    if (node.parentElement.closest(".scroll")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width && (box.left < -0.5 || box.right > page.clientWidth + 0.5)) {
        found.push(`${extract(node)} leaves the window`);
        break;
      }
    }
  }
  return found;
}

// Text that its own box does not show: boxes that scroll are what keyboard() looks after, unless nothing can scroll.
function clipped(mayScroll) {
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (element.closest("svg") || !shown(element)) continue;
    const how = getComputedStyle(element);
    if (how.overflowX === "visible" && how.overflowY === "visible") continue;
    const scrolls = how.overflowX === "auto" || how.overflowX === "scroll";
    if (scrolls && mayScroll) continue;
    if (element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1) {
      found.push(`${extract(element)} is cut off`);
    }
  }
  return found;
}

function pictures() {
  const found = [];
  for (const svg of document.querySelectorAll("svg[viewBox]")) {
    const view = svg.viewBox.baseVal;
    const boxes = [...svg.querySelectorAll("text")].map((text) => [text, text.getBBox()]);
    for (const [text, box] of boxes) {
      const inside =
        box.x >= view.x - 1 && box.x + box.width <= view.x + view.width + 1 &&
        box.y >= view.y - 2 && box.y + box.height <= view.y + view.height + 4;
      if (!inside) found.push(`${extract(text)} leaves its picture`);
    }
    boxes.forEach(([one, a], place) => {
      for (const [other, b] of boxes.slice(place + 1)) {
        const width = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
        const height = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
        // Boxes of letters have air above and below.
        if (width > 1 && height > 0.35 * Math.min(a.height, b.height)) {
          found.push(`${extract(one)} and ${extract(other)} lie on each other`);
        }
      }
    });
  }
  return found;
}

// Words of a length that words have, by themselves, which do not stand on one line.
function broken() {
  const found = [];
  for (const node of texts(document.body)) {
    if (node.parentElement.closest("svg")) continue;
    for (const word of node.data.matchAll(/(?<![^\s(])[\p{L}\p{N}.,%]{2,18}(?![^\s),.;:!?])/gu)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) {
        found.push(`"${word[0]}" is broken into lines`);
      }
    }
  }
  return found;
}

function small(leastPx) {
  const found = [];
  for (const node of texts(document.body)) {
    const size = pixels(node.parentElement);
    if (size < leastPx) found.push(`${extract(node)} is ${size.toFixed(1)} px high`);
  }
  return found;
}

function pixels(element) {
  const size = parseFloat(getComputedStyle(element).fontSize);
  return element instanceof SVGGraphicsElement ? size * element.getScreenCTM().d : size;
}

// -- contrast (WCAG 2.2, 1.4.3) -------------------------------------------------------------------------------------

function colour(text) {
  const parts = text.match(/^rgba?\(([^)]+)\)$/);
  if (!parts) throw new Error(`cannot read the colour ${text}`);
  const [r, g, b, a = 1] = parts[1].split(/[,/ ]+/).map(Number);
  return [r, g, b, a];
}

function over(top, bottom) {
  return [0, 1, 2].map((i) => top[i] * top[3] + bottom[i] * (1 - top[3])).concat(1);
}

function paperBehind(element) {
  const layers = [];
  for (let each = element; each; each = each.parentElement) {
    const found = colour(getComputedStyle(each).backgroundColor);
    if (found[3] > 0) layers.push(found);
    if (found[3] === 1) break;
  }
  const canvas = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
  return layers.reverse().reduce((bottom, top) => over(top, bottom), canvas);
}

function shapeBehind(text, paper) {
  const box = text.getBBox();
  const middle = new DOMPoint(box.x + box.width / 2, box.y + box.height / 2);
  let found = paper;
  for (const shape of text.ownerSVGElement.querySelectorAll("rect, polygon, circle, path")) {
    const fill = getComputedStyle(shape).fill;
    if (fill !== "none" && shape.isPointInFill(middle)) found = over(colour(fill), found);
  }
  return found;
}

function luminance([r, g, b]) {
  const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}

function contrast() {
  const found = [];
  for (const node of texts(document.body)) {
    const element = node.parentElement;
    const how = getComputedStyle(element);
    const inPicture = element instanceof SVGTextContentElement;
    const paper = paperBehind(element);
    const behind = inPicture ? shapeBehind(element, paper) : paper;
    const ink = over(colour(inPicture ? how.fill : how.color), behind);
    const [light, dark] = [luminance(ink), luminance(behind)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    const size = pixels(element);
    const isLarge = size >= 24 || (size >= 18.66 && Number(how.fontWeight) >= 700);
    if (ratio < (isLarge ? 3 : 4.5)) found.push(`${extract(node)} has a contrast of ${ratio.toFixed(2)}`);
  }
  return found;
}

function paperLuminance() {
  return luminance(paperBehind(document.body));
}

// -- keyboard -------------------------------------------------------------------------------------------------------

// Marks what can be opened or scrolled, and says how much that is.
function markOperable() {
  let num = 0;
  for (const element of document.querySelectorAll("*")) {
    const how = getComputedStyle(element);
    const scrolls = /auto|scroll/.test(how.overflowX) && element.scrollWidth > element.clientWidth + 1;
    if (!shown(element) || !(scrolls || element.matches("a[href], summary, button, input, select"))) continue;
    element.dataset.operable = num++;
  }
  return num;
}

function focused() {
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  const how = getComputedStyle(element);
  const isSeen = how.outlineStyle !== "none" && parseFloat(how.outlineWidth) > 0;
  return { number: element.dataset.operable ?? "", isSeen, text: extract(element) };
}

// -- print ----------------------------------------------------------------------------------------------------------

function words() {
  return [...texts(document.body)].map((node) => node.data.trim());
}

function closed() {
  return [...document.querySelectorAll("details:not([open])")].map((each) => `${extract(each)} is folded`);
}
