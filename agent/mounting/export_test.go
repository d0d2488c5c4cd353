package mounting

// EndGrace ends the time that an engine which has just started has to mount its containers' volumes again. Tests with
// the system's clock call it.
func (v *Verifier) EndGrace() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.restartUntil = 0
}

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
