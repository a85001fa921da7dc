# What R's `survival` takes for the work of benchmarks/emulation.py. Usage: Rscript emulation.R TASK CSV [REPLICATES]
# Prints the seconds of the work (not of reading the data) and the estimate, on one line.
suppressMessages(library(survival))
arguments <- commandArgs(TRUE)
d <- read.csv(arguments[2])

weighted_cox <- function() {
  f <- coxph(Surv(start, stop, event) ~ exposed + x1 + x2, d, weights = w, cluster = id, ties = "efron")
  unname(c(coef(f)[1], sqrt(vcov(f)[1, 1])))
}

# Clone-censor-weight with the weight models fitted anew: the method of the package survivalCCW.
clone_censor_weight <- function(d, g, horizon) {
  xs <- grep("^x", names(d), value = TRUE); rhs <- paste(xs, collapse = "+")
  st <- !is.na(d$start) & d$start <= g
  c0 <- transform(d, fup = ifelse(st, d$start, d$time), out = ifelse(st, 0, d$event), dev = as.integer(st))
  c0$cf <- pmin(c0$fup, g)
  late <- !st & d$time > g
  c1 <- transform(d, fup = ifelse(late, g, d$time), out = ifelse(late, 0, d$event), dev = as.integer(late))
  c1$cf <- pmin(c1$fup, g)
  long <- function(cl) {
    f <- coxph(as.formula(paste("Surv(cf, dev) ~", rhs)), cl, ties = "efron")
    b <- basehaz(f, centered = FALSE); b <- b[diff(c(0, b$hazard)) > 0, ]
    cl <- cl[cl$fup > 0, ]
    L <- survSplit(Surv(fup, out) ~ ., cl, cut = b$time, start = "t0")
    H <- c(0, b$hazard)[findInterval(L$t0, c(-Inf, b$time))]
    L$w <- exp(H * exp(as.vector(as.matrix(L[, xs]) %*% coef(f))))
    L
  }
  L <- rbind(cbind(long(c0), arm = 0), cbind(long(c1), arm = 1))
  f <- coxph(Surv(t0, fup, out) ~ arm, L, weights = w, ties = "efron")
  s <- summary(survfit(Surv(t0, fup, out) ~ arm, L, weights = w), times = horizon, extend = TRUE)$surv
  unname(c(coef(f), s))
}

begun <- proc.time()[["elapsed"]]
if (arguments[1] == "cox") {
  found <- weighted_cox()
} else {
  found <- clone_censor_weight(d, 180, 730)
  begun <- proc.time()[["elapsed"]]
  for (b in seq_len(as.integer(arguments[3]))) clone_censor_weight(d[sample(nrow(d), nrow(d), TRUE), ], 180, 730)
}
cat(proc.time()[["elapsed"]] - begun, sprintf("%.12g", found), "\n")
