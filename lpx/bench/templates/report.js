(function () {
  "use strict";
  var root = document.documentElement;
  var table = document.getElementById("engines-table");
  var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
  var status = document.getElementById("sort-status");

  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }

  function valueOf(row, column) {
    var text = row.cells[column].dataset.value;
    return text === undefined ? null : isNaN(text) ? text : Number(text);
  }

  function sort(key, direction) {
    var column = heads.findIndex(function (head) { return head.dataset.key === key; });
    if (column < 0) { return; }
    var sign = direction === "descending" ? -1 : 1;
    var rows = Array.prototype.slice.call(table.tBodies[0].rows);
    rows.sort(function (one, other) {
      var a = valueOf(one, column), b = valueOf(other, column);
      // What has no value comes last, whatever the direction.
      return a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b);
    });
    rows.forEach(function (row) { table.tBodies[0].appendChild(row); });
    heads.forEach(function (head) { head.removeAttribute("aria-sort"); });
    heads[column].setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
    status.textContent = "Sorted by " + heads[column].dataset.title + ", " + (sign < 0 ? "descending" : "ascending");
  }

  heads.forEach(function (head) {
    head.querySelector("button").addEventListener("click", function () {
      sort(head.dataset.key, head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
    });
  });

  function theme(name) {
    if (name === "auto") { delete root.dataset.theme; } else { root.dataset.theme = name; }
    document.getElementById("theme").textContent = "Theme: " + name;
  }

  document.getElementById("theme").addEventListener("click", function () {
    theme({ light: "dark", dark: "auto" }[root.dataset.theme] || "light");
  });

  // #sort=auc, #sort=auc:descending, #theme=dark, or both with & between: links to a view.
  function follow() {
    var view = new URLSearchParams(location.hash.slice(1));
    var order = (view.get("sort") || "").split(":");
    sort(order[0], order[1]);
    if (/^(auto|light|dark)$/.test(view.get("theme"))) { theme(view.get("theme")); }
  }

  addEventListener("hashchange", follow);
  follow();
  root.dataset.ready = "true";
})();
