"""`tickdrive report`: a drive as one HTML file that needs neither server nor network.

`run_folder` finds what a run left behind, `columns` reads what of a tick only a report shows, `pictures`
chooses among the camera's, `payload` packs it all for the page, and `page` puts the file together. What the
browser runs is in `web/`: plain files, and uPlot for the charts (`web/vendor`, MIT).
"""
