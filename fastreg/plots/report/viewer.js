// The optional 3-D viewer: NiiVue, which the page holds once, on small volumes of the chosen pair.

// Offers the viewer for a pair, or puts it away where the page has no volumes of it.
function offerViewer(pair) {
  $("viewer").hidden = !$(`volumes-${pair}`);
  $("viewer").replaceChildren();
  if ($("viewer").hidden) return;
  const button = element("button", "Show in 3-D", $("viewer"), {type: "button", id: "volumes"});
  button.addEventListener("click", () => showVolumes(pair).catch(error => {
    $("viewer").replaceChildren();
    element("p", `The 3-D viewer needs WebGL 2, which this browser does not give: ${error.message}`, $("viewer"), {class: "quiet"});
  }));
}

async function showVolumes(pair) {
  const volumes = JSON.parse($(`volumes-${pair}`).textContent);
  $("viewer").replaceChildren();
  const label = element("label", "Moved image over the fixed one ", $("viewer"));
  const slider = element("input", undefined, label, {type: "range", min: 0, max: 100, value: 40, id: "opacity"});
  const box = element("div", undefined, $("viewer"));  // NiiVue paints and sizes what its canvas lies in
  const canvas = element("canvas", undefined, box, {"aria-label": "Fixed and moved image in 3-D"});
  const viewer = new niivue.Niivue({backColor: [0, 0, 0, 1], logLevel: "error", isColorbar: false, loadingText: ""});
  await viewer.attachToCanvas(canvas);
  for (const [name, colormap, opacity] of [["fixed", "gray", 1], ["moved", "warm", 0.4]]) {
    viewer.addVolume(await niivue.NVImage.loadFromBase64({base64: volumes[name], name: `${name}.nii.gz`, colormap, opacity}));
  }
  viewer.setSliceType(viewer.sliceTypeMultiplanar);
  slider.addEventListener("input", () => viewer.setOpacity(1, slider.value / 100));
  canvas.dataset.volumes = viewer.volumes.length;
}
