"use strict";
// Draws the figures of a report in the colours of the page, again when the scheme changes.
(function () {
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  function coloured(value, key) {
    if (Array.isArray(value)) return value.map((each) => coloured(each, key));
    if (value !== null && typeof value === "object") {
      const copy = {};
      for (const name of Object.keys(value)) copy[name] = coloured(value[name], name);
      return copy;
    }
    const isColour = key === "color" || key === "colorscale";
    return isColour && typeof value === "string" && value.startsWith("role:") ? style(value.slice(5)) : value;
  }

  function axis(given) {
    return Object.assign({ gridcolor: style("line"), linecolor: style("line"), zeroline: false, fixedrange: true }, given);
  }

  function draw() {
    for (const place of document.querySelectorAll("[data-figure]")) {
      const figure = coloured(JSON.parse(document.getElementById(place.dataset.figure).textContent), "");
      const layout = Object.assign({}, figure.layout, {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: style("text") },
        hoverlabel: { bgcolor: style("raised"), bordercolor: style("line"), font: { color: style("text") } },
        xaxis: axis(figure.layout.xaxis),
        yaxis: axis(figure.layout.yaxis),
      });
      Plotly.react(place, figure.data, layout, { displayModeBar: false, responsive: true });
    }
  }

  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
