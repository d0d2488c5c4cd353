package restserver

// WhileCounting makes the directory call a function before it counts its files.
func WhileCounting(d *Directory, f func()) {
	d.count = func() (int64, error) {
		f()
		return d.countFiles()
	}
}
