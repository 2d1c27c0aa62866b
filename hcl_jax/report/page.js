// Without script every part of the page is shown, one below the other.
const tabs = [...document.querySelectorAll('[role=tab]')];
function show(tab) {
  for (const t of tabs) {
    t.setAttribute('aria-selected', t === tab);
    t.tabIndex = t === tab ? 0 : -1;
    document.getElementById(t.getAttribute('aria-controls')).hidden = t !== tab;
  }
}
tabs.forEach((t, i) => {
  t.onclick = () => show(t);
  t.onkeydown = e => {
    const by = {ArrowRight: 1, ArrowLeft: -1}[e.key];
    if (!by) return;
    const next = tabs[(i + by + tabs.length) % tabs.length];
    show(next); next.focus();
  };
});
show(tabs[0]);
for (const b of document.querySelectorAll('.classes button')) b.onclick = () => {
  const on = b.getAttribute('aria-pressed') !== 'true', box = b.closest('.maps');
  for (const o of box.querySelectorAll('.classes button')) o.setAttribute('aria-pressed', on && o === b);
  for (const m of box.querySelectorAll('use[data-k]')) m.classList.toggle('dim', on && m.dataset.k !== b.dataset.k);
};
