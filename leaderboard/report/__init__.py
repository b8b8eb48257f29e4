"""`tickdrive report`: a drive as one HTML file that needs neither server nor network.

`run_folder` finds what a run left behind, `columns` turns its ticks into arrays, `payload` packs them for the
page, and `page` puts the file together. What the browser runs is in `web/`: plain files, and uPlot for the
charts (`web/vendor`, MIT).
"""
