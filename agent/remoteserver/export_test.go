package remoteserver

const MaxRequests = maxRequests
