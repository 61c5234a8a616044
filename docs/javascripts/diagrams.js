// An entity diagram has its natural size, and scrolls: at the width of the text its names are too small to be read.
const initialize = mermaid.initialize;
mermaid.initialize = (config) => initialize({ ...config, er: { ...config.er, useMaxWidth: false } });
