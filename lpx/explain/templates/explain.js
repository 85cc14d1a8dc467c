(function () {
  "use strict";
  var root = document.documentElement;
  var grid = document.getElementById("grid");
  var faces = Array.prototype.slice.call(grid.children);
  var tools = document.getElementById("tools");
  var names = new Intl.Collator(undefined, { numeric: true });

  function control(name) { return tools && tools.elements.namedItem(name); }

  function chosen(name) {
    var one = control(name);
    return !one ? "" : one.type === "checkbox" ? (one.checked ? one.value : "") : one.value;
  }

  function byName(a, b) { return names.compare(a.dataset.name, b.dataset.name); }

  function sort(key, direction) {
    var sign = direction === "descending" ? -1 : 1;
    faces.sort(function (a, b) {
      if (key === "name") { return sign * byName(a, b); }
      var one = a.dataset[key], other = b.dataset[key];
      // Faces without a value come last, in either direction.
      if (one === "" || other === "") { return (one === "") - (other === "") || byName(a, b); }
      return sign * (one - other) || byName(a, b);
    });
    faces.forEach(function (face) { grid.appendChild(face); });
  }

  function visible() { return faces.filter(function (face) { return !face.hidden; }); }

  function filter() {
    var name = chosen("name").toLowerCase();
    faces.forEach(function (face) {
      face.hidden = face.dataset.name.toLowerCase().indexOf(name) < 0 ||
        ["label", "called", "wrong"].some(function (key) {
          return chosen(key) && chosen(key) !== face.dataset[key];
        });
    });
    var count = visible().length;
    document.getElementById("none").hidden = count > 0;
    document.getElementById("count").textContent = count === faces.length ?
      count.toLocaleString("en") + " faces" :
      count.toLocaleString("en") + " of " + faces.length.toLocaleString("en") + " faces";
  }

  function update() {
    var order = chosen("sort").split(":");
    sort(order[0], order[1]);
    filter();
  }

  // A link to this view: #sort=score:ascending&label=fake&called=real&wrong=1&name=a&theme=dark
  function remember() {
    var view = new URLSearchParams();
    ["sort", "label", "called", "wrong", "name"].forEach(function (key) {
      if (chosen(key)) { view.set(key, chosen(key)); }
    });
    if (root.dataset.theme) { view.set("theme", root.dataset.theme); }
    try { history.replaceState(null, "", "#" + view); } catch (error) { /* a page in a frame */ }
  }

  function theme(name) {
    if (name === "auto") { delete root.dataset.theme; } else { root.dataset.theme = name; }
    document.getElementById("theme").textContent = "Theme: " + name;
  }

  function follow() {
    var view = new URLSearchParams(location.hash.slice(1));
    ["sort", "label", "called", "name", "wrong"].forEach(function (key) {
      var one = control(key);
      if (!one || !view.has(key)) { return; }
      if (one.type === "checkbox") { one.checked = view.get(key) === one.value; return; }
      var before = one.value;
      one.value = view.get(key);
      // A select without this option would become empty.
      if (one.value !== view.get(key)) { one.value = before; }
    });
    if (/^(auto|light|dark)$/.test(view.get("theme"))) { theme(view.get("theme")); }
    if (tools) { update(); }
  }

  document.getElementById("theme").addEventListener("click", function () {
    theme({ light: "dark", dark: "auto" }[root.dataset.theme] || "light");
    remember();
  });
  if (tools) {
    tools.addEventListener("input", function () { update(); remember(); });
    tools.addEventListener("submit", function (event) { event.preventDefault(); });
    document.getElementById("reset").addEventListener("click", function () {
      var order = chosen("sort");
      tools.reset();
      control("sort").value = order;
      update();
      remember();
    });
  }

  var dialog = document.getElementById("large");
  var current = null;

  function show(face) {
    var list = visible(), place = list.indexOf(face);
    var copy = face.cloneNode(true), shell = document.createElement("div");
    shell.className = copy.className.replace("card ", "");
    while (copy.firstChild) { shell.appendChild(copy.firstChild); }
    var button = shell.querySelector(".enlarge"), pictures = document.createElement("div");
    pictures.className = "enlarge";
    while (button.firstChild) { pictures.appendChild(button.firstChild); }
    button.replaceWith(pictures);
    document.getElementById("enlarged").replaceChildren(shell);
    document.getElementById("place").textContent = (place + 1) + " of " + list.length;
    current = face;
    if (!dialog.open) { dialog.showModal(); }
  }

  function turn(step) {
    var list = visible();
    show(list[(list.indexOf(current) + step + list.length) % list.length]);
  }

  grid.addEventListener("click", function (event) {
    var button = event.target.closest(".enlarge");
    if (button) { show(button.closest(".face")); }
  });
  document.getElementById("previous").addEventListener("click", function () { turn(-1); });
  document.getElementById("next").addEventListener("click", function () { turn(1); });
  document.getElementById("close").addEventListener("click", function () { dialog.close(); });
  dialog.addEventListener("click", function (event) {
    if (event.target === dialog) { dialog.close(); }
  });
  dialog.addEventListener("keydown", function (event) {
    var step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); turn(step); }
  });

  addEventListener("hashchange", follow);
  follow();
  root.dataset.ready = "true";
})();
