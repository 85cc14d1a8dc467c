(function () {
  "use strict";
  var root = document.documentElement;
  var status = document.getElementById("sort-status");

  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }

  function headsOf(table) { return Array.prototype.slice.call(table.tHead.rows[0].cells); }

  // A cell sorts by its data-value, else by the text of its first line.
  function valueOf(row, column) {
    var cell = row.cells[column];
    if (!cell) { return null; }
    var text = cell.dataset.value;
    if (text === undefined) {
      if (row.closest(".engines")) { return null; }
      text = cell.firstChild ? cell.firstChild.textContent.trim().replace(/,/g, "") : "";
    }
    return text === "" || text === "\u2013" ? null : isNaN(text) ? text : Number(text);
  }

  function sort(table, column, direction) {
    var heads = headsOf(table), head = heads[column];
    var sign = direction === "descending" ? -1 : 1;
    var rows = Array.prototype.slice.call(table.tBodies[0].rows);
    rows.sort(function (one, other) {
      var a = valueOf(one, column), b = valueOf(other, column);
      // What has no value comes last, whatever the direction.
      return a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b);
    });
    rows.forEach(function (row) { table.tBodies[0].appendChild(row); });
    heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
    status.textContent = "Sorted by " + (head.dataset.title || head.textContent.trim()) + ", " + (sign < 0 ? "descending" : "ascending");
  }

  // Headers are plain text until there is a script that sorts.
  function withButton(head) {
    var button = document.createElement("button"), title = document.createElement("span");
    button.type = "button";
    title.appendChild(head.firstChild);
    button.appendChild(title);
    while (head.firstChild) { button.appendChild(head.firstChild); }
    head.appendChild(button);
    head.classList.remove("plain");
    return button;
  }

  document.querySelectorAll("table.sortable").forEach(function (table) {
    headsOf(table).forEach(function (head, column) {
      (head.querySelector("button") || withButton(head)).addEventListener("click", function () {
        sort(table, column, head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
      });
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
    var engines = document.getElementById("engines-table");
    var column = headsOf(engines).findIndex(function (head) { return head.dataset.key === order[0]; });
    if (column >= 0) { sort(engines, column, order[1]); }
    if (/^(auto|light|dark)$/.test(view.get("theme"))) { theme(view.get("theme")); }
  }

  addEventListener("hashchange", follow);
  follow();
  root.dataset.ready = "true";
})();
