// Starts reveal.js. A slide that is taller or wider than the page gets smaller letters and pictures, until everything fits.
// Lines of printed text are broken only where letters would be smaller than SMALL.
const SMALL = 0.7, SMALLEST = 0.4;
const narrow = window.innerWidth < 600 && !/print-pdf/.test(window.location.search);
const [wide, tall] = narrow ? [680, 1180] : [1280, 800];

function fit(slide) {
  let share;
  const over = () => slide.scrollHeight > tall + 1 || slide.scrollWidth > wide + 1;
  const shrink = (least) => {
    for (share = 1; ; share -= 0.05) {
      slide.style.fontSize = share < 1 ? `${share}em` : "";
      for (const picture of slide.querySelectorAll("img")) picture.style.maxHeight = `${(tall - 160) * share}px`;
      if (!over() || share <= least) return;
    }
  };
  shrink(SMALL);
  if (!over()) return;
  for (const lines of slide.querySelectorAll("pre")) lines.style.whiteSpace = "pre-wrap";
  shrink(SMALLEST);
}

document.documentElement.style.setProperty("--tall", `${tall}px`);
Reveal.initialize({ hash: true, width: wide, height: tall, margin: 0.02, center: false, transition: "none",
  scrollActivationWidth: null }).then(() => {
  Reveal.on("slidechanged", (event) => fit(event.currentSlide));
  Reveal.on("pdf-ready", () => document.querySelectorAll(".slides section").forEach(fit));
  fit(Reveal.getCurrentSlide());
});
