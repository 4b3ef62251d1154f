// Runs once in each view of a panel. `this` is the panel's style element.
(style => {
    const panel = style.closest('.lab-panel');
    if (!panel || panel.labWatched) return;
    panel.labWatched = true;
    const LATE = 2000; // ms without an answer of the kernel, after which a notice says so
    const BUILT = performance.now() + 1000; // until then the page is still making the controls
    const all = selector => [...panel.querySelectorAll(selector)];
    const set = (element, name, value) => { if (element.getAttribute(name) !== value) element.setAttribute(name, value); };

    // Names for screen readers: ipywidgets gives none to the handles of sliders and to pictures.
    const name = () => {
        for (const control of all('[class*="lab-control-"]')) {
            const words = control.querySelector('label')?.textContent, ends = control.querySelectorAll('.noUi-handle');
            const chosen = control.querySelector('.widget-readout')?.textContent;
            ends.forEach((handle, end) => {
                set(handle, 'aria-label', ends.length > 1 ? `${words}, ${end ? 'to' : 'from'}` : words ?? '');
                if (ends.length === 1 && chosen) set(handle, 'aria-valuetext', chosen);
            });
        }
        const caption = panel.querySelector('.lab-caption');
        if (!caption) return;
        caption.id ||= `lab-caption-${Math.random().toString(36).slice(2)}`;
        for (const picture of all('img.lab-picture')) set(picture, 'aria-labelledby', caption.id);
    };

    // The picture is dimmed until the kernel has drawn the values that the controls show.
    const values = () => JSON.stringify(all('.lab-controls .noUi-handle, .lab-controls select, .lab-controls input').map(
        one => one.getAttribute('aria-valuenow') ?? (one.type === 'checkbox' ? one.checked : one.value)));
    let answered = null, timer = null;
    const waits = on => {
        panel.classList.toggle('lab-waiting', on);
        if (!on) { clearTimeout(timer); timer = null; panel.classList.remove('lab-late'); }
        else timer ??= setTimeout(() => panel.classList.add('lab-late'), LATE);
    };
    const compare = () => {
        const status = panel.querySelector('.lab-status [data-drawing]')?.dataset.drawing;
        if (status === undefined) return;
        if (status !== panel.labStatus || performance.now() < BUILT) { panel.labStatus = status; answered = values(); }
        waits(status === 'now' || values() !== answered);
        if (status === 'now') { clearTimeout(timer); panel.classList.remove('lab-late'); }
    };
    const look = () => { name(); compare(); };
    new MutationObserver(look).observe(panel, {
        subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ['aria-valuenow', 'data-drawing'],
    });
    panel.addEventListener('change', look);
    panel.addEventListener('click', look);
    look();
})(this)
