package mounting

// Occupy takes the places of all flushes that Look may start, until free is called.
func (w *Watcher) Occupy() (free func()) {
	for range maxLossFlushes {
		w.flushing <- struct{}{}
	}
	return func() {
		for range maxLossFlushes {
			<-w.flushing
		}
	}
}
